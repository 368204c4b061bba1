"""The hash that a run has recorded of its checkpoint, compared wherever the checkpoint is read.

`result.json` has the SHA-256 of `checkpoints/last.ckpt`, or of the file it was consolidated to if it is a folder, whose
parts are known by their sizes and checksums. A checkpoint of which nobody knows it (of a run that is not finished, or
copied alone) still has a checksum for each of its tensors.
"""

import json
import zipfile
from functools import cache
from pathlib import Path
from typing import Any, cast

from lit_avg.result_names import BEFORE, OWN, RESULT, RunResult
from lit_avg.runs.run_folder import LAST_CHECKPOINT, consolidated_path, run_of
from lit_avg.utils.atomic_io import write_whole
from lit_avg.utils.errors import UserError
from lit_avg.utils.hashing import file_sha256, file_state
from lit_avg.utils.json_files import read_entries


def recorded(path: Path) -> set[str]:
    """The hashes that a run's result knows its checkpoint by; none where nothing is recorded.

    Args:
        path: of the checkpoint.

    Raises:
        UserError: there is a result that cannot be read.
    """
    run = run_of(path)
    result = run / RESULT
    own = (run / LAST_CHECKPOINT, consolidated_path(run / LAST_CHECKPOINT))
    if path.absolute() not in own or not result.is_file():
        return set()
    checkpoint = read_result(result).get("checkpoint")
    known = cast(dict[str, Any], checkpoint) if isinstance(checkpoint, dict) else {}
    return {str(known[name]) for name in (OWN, BEFORE) if known.get(name)}


def read_result(path: Path) -> RunResult:
    """A run's result; errors as in `read_entries`."""
    return cast(RunResult, read_entries(path, "bring it back, or remove it and test again"))


def note_calibrated(path: Path, sha256: str, policy: str) -> bool:
    """Record another hash of a checkpoint that is about to be put in place of the one before, which stays known.

    Args:
        path: of the checkpoint.
        sha256: of the new one.
        policy: chooses by another margin from now on; what a test found out of it is forgotten.

    Returns:
        Whether there was such a thing.
    """
    if not recorded(path):
        return False
    place = run_of(path) / RESULT
    result = read_result(place)
    result["checkpoint"] = result.get("checkpoint", {}) | {OWN: sha256, BEFORE: file_sha256(path)}
    metrics = result.get("metrics", {})
    result["metrics"] = {name: value for name, value in metrics.items() if not name.startswith(f"{policy}/")}
    write_whole(place, json.dumps(result, indent=2, allow_nan=False) + "\n")
    return result["metrics"] != metrics


def check_undamaged(path: Path) -> None:
    """Refuse a checkpoint that is not what was written.

    Raises:
        UserError: names the file and both hashes.
    """
    known = recorded(path)
    if known and (found := file_sha256(path)) not in known:
        raise UserError(
            f"{path} is not what its run wrote (SHA-256 {found[:12]}, but {min(known)[:12]} in {RESULT}): "
            "bring that one back from a copy, or train it anew"
        )
    if not known and (tensor := _damaged(path, file_state(path))) is not None:
        raise UserError(f"{path} is damaged at {tensor}: bring it back from a copy, or train it anew")


@cache
def _damaged(path: Path, state: str) -> str | None:
    """The first entry of a checkpoint whose checksum is not its own; `state` tells an older file from this one."""
    if not zipfile.is_zipfile(path):
        return None  # another kind of file, as whoever reads it will say
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except zipfile.BadZipFile as error:
        return f"its end ({error})"
