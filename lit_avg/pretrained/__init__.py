"""Folders of models: ours, as transformers loads it, and the authors' layout."""
