"""SHA-256 of files' contents, read once and kept: what names data and weights wherever they lie.

A hash is kept for as long as the file's path, size, inode and both times (in nanoseconds) are what they were. The time
of the last change of the inode is among them, since `cp -p` and `touch -r` set the other one back.
"""

import hashlib
import json
import logging
import os
import time
from contextlib import suppress
from pathlib import Path

from lit_avg.cache_folder import default_cache
from lit_avg.studies.files import write_whole

_TICK_S = 0.02
"""Two changes of a file that are less apart may leave the same time; the kernel's clock for files ticks so slowly."""

_COARSE_TICK_S = 2.0
"""The same of file systems that keep whole seconds."""

_log = logging.getLogger(__name__)

_known: dict[tuple[str, str], str] = {}
"""What this process has found out: path and state to hash."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in 64 hex digits; the file is read only if it is new or was changed.

    Raises:
        OSError: it cannot be read.
    """
    place = Path(os.path.abspath(path))  # noqa: PTH100  links are followed where they lead today
    state = file_state(place)
    if (place_and_state := (str(place), state)) not in _known:
        _known[place_and_state] = _kept(place, state) or _read_and_keep(place)
    return _known[place_and_state]


def sha256_of_content(path: Path) -> str:
    """The same, read anew whatever is known of the file.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def keep_sha256(path: Path, sha256: str) -> None:
    """Note the hash of a file that was just written or fetched, so that nobody has to read it again."""
    place = Path(os.path.abspath(path))  # noqa: PTH100  see above
    state = file_state(place)
    _known[str(place), state] = sha256
    _keep(place, state, sha256)


def file_state(path: Path) -> str:
    """What changes when somebody writes to a file, or puts another in its place.

    Raises:
        OSError: there is no such file.
    """
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def _read_and_keep(place: Path) -> str:
    """Read a file, again if somebody wrote to it meanwhile."""
    while True:
        _wait_for_next_tick(place)
        before = file_state(place)
        sha256 = sha256_of_content(place)
        if file_state(place) == before:
            _keep(place, before, sha256)
            return sha256


def _wait_for_next_tick(place: Path) -> None:
    """See that a later change will show in the file's time."""
    changed = place.stat().st_ctime_ns
    tick = _TICK_S if changed % 1_000_000_000 else _COARSE_TICK_S
    if 0 <= (age := time.time() - changed / 1e9) < tick:
        time.sleep(tick - age)


def _kept(place: Path, state: str) -> str | None:
    """What another process noted; None if the file was changed since, or nothing can be read."""
    with suppress(OSError, RuntimeError, ValueError, TypeError, KeyError):
        noted = json.loads(_note_of(place).read_bytes())
        if noted["path"] == str(place) and noted["state"] == state and len(noted["sha256"]) == 64:
            return noted["sha256"]
    return None


def _keep(place: Path, state: str, sha256: str) -> None:
    try:
        write_whole(_note_of(place), json.dumps({"path": str(place), "state": state, "sha256": sha256}))
    except (OSError, RuntimeError, UnicodeError) as error:  # read-only, full, or a user without a home
        _log.debug("the hash of %s cannot be kept: %s", place, error)


def _note_of(place: Path) -> Path:
    return default_cache() / "file_hashes" / f"{hashlib.sha256(os.fsencode(place)).hexdigest()}.json"
