"""All that knows transformers' LLaVA-NeXT: its parts, its rows of tokens, answer log-probs and generation."""
