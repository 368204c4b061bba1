"""A config as users write it: parsed, checked, its mistakes told in a line, and saved beside a run."""
