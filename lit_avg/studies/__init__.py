"""Studies: one YAML says which runs are made and which table they end in. Nothing here trains or imports torch."""
