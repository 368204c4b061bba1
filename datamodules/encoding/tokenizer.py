"""Tokenizers: those of the hub, of a folder, and those that ship with the project."""

from pathlib import Path
from typing import cast

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lit_avg.utils.errors import UserError
from lit_avg.utils.hub import check_source

TOKENIZERS = Path(__file__).parent / "tokenizers"
"""Tokenizers that ship with the project, one folder each."""


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A fast tokenizer.

    Args:
        name: hub id, folder, or the name of one that ships with the project (`jersey`).

    Raises:
        UserError: there is none of that name.
    """
    shipped = TOKENIZERS / name
    source = str(shipped) if name and shipped.is_dir() else name
    check_source("tokenizer", source, "tokenizer_config.json")
    try:
        loaded = AutoTokenizer.from_pretrained(source, use_fast=True, trust_remote_code=False)  # never ask
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"tokenizer: {name} cannot be loaded: {reason}") from error
    return cast(PreTrainedTokenizerFast, loaded)
