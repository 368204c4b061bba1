"""Names of the Hugging Face hub: a typo is found out in seconds, and without a network too.

transformers asks for each of a model's files, and again and again, before it gives up.
"""

from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import hf_hub_download, model_info, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]  of whichever client it asks with
    OfflineModeIsEnabled,
)

from lit_avg.utils.errors import UserError
from lit_avg.utils.weight_io import FORMATS, files_of_index

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


BESIDE_WEIGHTS = ("generation_config.json", "vision_config.json", "preprocessor_config.json")
"""What a repository may have beside a model's config."""


def config_folder(argument: str, name: str) -> Path:
    """The folder of a model's `config.json`; arguments and errors as in `weights_folder`."""
    check_source(argument, name, "config.json")
    if Path(name).is_dir():
        return Path(name)
    try:
        for file in BESIDE_WEIGHTS:
            _fetched(name, file)
        return Path(hf_hub_download(name, "config.json")).parent
    except (HfHubHTTPError, HFValidationError, OSError, HTTPError) as error:
        raise _not_fetched(argument, name, error) from error


def weights_folder(argument: str, name: str) -> Path:
    """The folder of a model's `config.json` and weights; of a hub id, once they are fetched.

    Args:
        argument: what the user knows it by.
        name: hub id or folder.

    Raises:
        UserError: it is neither, or has no config or weights.
    """
    folder = config_folder(argument, name)
    if Path(name).is_dir():
        return folder
    try:
        for stem, suffix in FORMATS:
            if (index := _fetched(name, f"{stem}.{suffix}.index.json")) is not None:
                for file in files_of_index(index):
                    hf_hub_download(name, file)
                return folder
            if _fetched(name, f"{stem}.{suffix}") is not None:
                return folder
    except (HfHubHTTPError, HFValidationError, OSError, HTTPError) as error:
        raise _not_fetched(argument, name, error) from error
    return folder  # whoever reads the weights tells that there are none


def files_beside(name: str, files: Iterable[str]) -> list[Path]:
    """Those files that a folder or a repository has, fetched."""
    here = Path(name).is_dir()
    found = [Path(name) / file if here else _fetched(name, file) for file in files]
    return [path for path in found if path is not None and path.is_file()]


def _not_fetched(argument: str, name: str, error: Exception) -> UserError:
    return UserError(f"{argument}: {name} cannot be fetched from the hub: {' '.join(str(error).split())[:200]}")


def _fetched(name: str, file: str) -> Path | None:
    """A file of a repository; None if it has none of that name."""
    try:
        return Path(hf_hub_download(name, file))
    except EntryNotFoundError:
        return None
