"""A study's figures, one module for each."""
