"""The fast way gives what the authors' way gives: losses, and gradients of router, LLM, connector."""
