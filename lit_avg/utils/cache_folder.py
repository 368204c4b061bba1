"""The folder that all runs of a user, or of a group of users, share: fetched shards, drawn data, hashes of files."""

import os
from pathlib import Path

CACHE_VARIABLE = "LIT_AVG_CACHE"
"""Environment variable that names it."""


def default_cache() -> Path:
    """$LIT_AVG_CACHE, or a folder in the user's home."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "lit_avg")
