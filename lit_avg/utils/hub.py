"""Names of the Hugging Face hub: a typo is found out in seconds, and without a network too.

transformers asks for each of a model's files, and again and again, before it gives up.
"""

from pathlib import Path

from huggingface_hub import model_info, try_to_load_from_cache
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]  of whichever client it asks with
    OfflineModeIsEnabled,
)

from lit_avg.utils.errors import UserError

SECONDS = 10.0
"""How long the hub may take to say that it has something."""


def check_source(argument: str, name: str, file: str) -> None:
    """Refuse what is neither a folder, nor in the hub's cache, nor on the hub.

    Args:
        argument: what the user knows it by.
        name: hub id or folder.
        file: one that it must have.

    Raises:
        UserError: it is none, or the hub cannot be asked.
    """
    if name.strip() and Path(name).is_dir():
        return
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or not name.strip():
        raise UserError(f"{argument}: there is no folder {name or 'of no name'}")
    try:
        if isinstance(try_to_load_from_cache(name, file), str):
            return
        model_info(name, timeout=SECONDS)
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, HTTPError) as error:
        reason = "the hub has none of that name" if isinstance(error, HfHubHTTPError) else "the hub cannot be asked"
        raise UserError(f"{argument}: {name} is no folder here, not in the hub's cache, and {reason}") from error
