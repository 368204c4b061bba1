"""JSON files of named entries: results of runs, manifests, configs of checkpoints."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

from lit_avg.utils.errors import UserError


def read_entries(path: Path, mend: str, needed: Collection[str] = ()) -> dict[str, Any]:
    """The entries of a file.

    Args:
        path: of the file.
        mend: what to do where it is no good, for the message.
        needed: entries that it must have.

    Raises:
        UserError: it is missing or damaged, holds something else, or lacks an entry that is needed.
    """
    try:
        content: object = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"there is no {path.name} in {path.parent}; {mend}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); {mend}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} cannot be read (it holds no named entries); {mend}")
    entries = cast(dict[str, Any], content)
    if missing := [name for name in needed if name not in entries]:
        raise UserError(f"{path} cannot be read (it lacks {', '.join(missing)}); {mend}")
    return entries
