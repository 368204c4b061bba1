"""SHA-256: of contents, and of files, which are read once; it names runs, data and weights wherever they lie.

The hash of a file is kept for as long as the file's path, size, inode and both times (in nanoseconds) are what they
were. The time of the last change of the inode is among them, since `cp -p` and `touch -r` set the other one back.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from lit_avg.utils.atomic_io import write_whole
from lit_avg.utils.cache_folder import default_cache
from lit_avg.utils.errors import UserError
from lit_avg.utils.locks import lock_until_closed

_WORTH_KEEPING = 2**20
"""Bytes of a file from which on its hash is kept on the disk; a smaller one is read as fast as the note of it."""

_TICK_S = 0.02
"""Two changes of a file that are less apart may leave the same time; the kernel's clock for files ticks so slowly."""

_COARSE_TICK_S = 2.0
"""The same of file systems that keep whole seconds."""

_known: dict[tuple[str, str], str] = {}
"""What this process has found out: path and state to hash."""


def hash_of(content: str | bytes, digits: int = 64) -> str:
    """The first hex digits of the SHA-256 of a text, in UTF-8, or of bytes."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:digits]


def hash_of_json(content: object, digits: int = 64) -> str:
    """The same of whatever JSON can say, the order of entries aside; for what it cannot say stands its `str`."""
    return hash_of(json.dumps(content, sort_keys=True, default=str), digits)


def number_of(text: str) -> int:
    """A number below 2**64 that is as good as drawn, and the same for the same text."""
    return int(hash_of(text, 16), 16)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in 64 hex digits; the file is read only if it is new or was changed.

    Raises:
        OSError: it cannot be read.
    """
    place = _absolute(path)
    return _noted(place, file_state(place)) or _read_and_keep(place)


def known_sha256(path: Path) -> str | None:
    """The same if it can be told at once; None of a large file that is new or was changed.

    Raises:
        OSError: it cannot be read.
    """
    place = _absolute(path)
    return file_sha256(place) if place.stat().st_size < _WORTH_KEEPING else _noted(place, file_state(place))


def read_sha256(path: Path) -> str:
    """The same, the file read whatever is known of it.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def keep_sha256(path: Path, sha256: str) -> None:
    """Note the hash of a file that was just written or fetched, so that nobody has to read it again."""
    place = _absolute(path)
    _keep(place, file_state(place), sha256)


def kept_of_files(files: Sequence[Path], what: str, find_out: Callable[[], str]) -> str:
    """What somebody has found out about files, for as long as they stay as they are; of several processes one does.

    Args:
        files: that it depends on.
        what: it is, of all that may be known of them.
        find_out: reads them.

    Raises:
        OSError: a file is not there.
    """
    places = [_absolute(path) for path in files]
    name = hash_of_json([what, *(f"{place} {file_state(place)}" for place in places)])
    if sum(place.stat().st_size for place in places) < _WORTH_KEEPING:
        return find_out()
    note = default_cache() / "of_files" / f"{name}.json"
    with places[0].open("rb") as file:
        with suppress(UserError):  # a file system without locks: then each finds out for itself
            lock_until_closed(file)
        with suppress(OSError, RuntimeError, ValueError, TypeError, KeyError):  # no note, or one that is broken
            return str(json.loads(note.read_bytes())[name])
        for place in places:
            _wait_for_next_tick(place)
        found = find_out()
        if hash_of_json([what, *(f"{place} {file_state(place)}" for place in places)]) == name:
            with suppress(OSError, RuntimeError, UnicodeError):
                write_whole(note, json.dumps({name: found}))
        return found


def changed_beneath(manifest: Path, hashes: Mapping[str, str], read: bool = True) -> dict[Path, str]:
    """The files beside a manifest that somebody has changed or put there since it was written, and their hashes.

    Only what was changed later than the manifest is hashed, and that once.

    Args:
        manifest: what says how the files should be.
        hashes: by the files' names; empty where it says none.
        read: also look at large files of which nothing is known yet; else they count as unchanged.
    """
    written, changed = manifest.stat(), dict[Path, str]()
    for name, sha256 in hashes.items():
        path = manifest.parent / name
        if sha256 and is_later(path.stat(), written):
            found = file_sha256(path) if read else known_sha256(path)
            if found not in (None, sha256):
                changed[path] = found
    return changed


def is_later(file: os.stat_result, other: os.stat_result) -> bool:
    """Whether a file was changed later than another, by either time: `chmod -R` sets one of them for all files."""
    return file.st_ctime_ns > other.st_ctime_ns or file.st_mtime_ns > other.st_mtime_ns


def file_state(path: Path) -> str:
    """What changes when somebody writes to a file, or puts another in its place.

    Raises:
        OSError: there is no such file.
    """
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100  links are followed where they lead today


def _read_and_keep(place: Path) -> str:
    """Read a file, again if somebody wrote to it meanwhile; of several processes one does, and the others wait."""
    with place.open("rb") as file:
        with suppress(UserError):  # a file system without locks: then each reads for itself
            lock_until_closed(file)
        while True:
            _wait_for_next_tick(place)
            before = file_state(place)
            if (noted := _noted(place, before)) is not None:
                return noted
            sha256 = read_sha256(place)
            if file_state(place) == before:
                _keep(place, before, sha256)
                return sha256


def _wait_for_next_tick(place: Path) -> None:
    """See that a later change will show in the file's time."""
    changed = place.stat().st_ctime_ns
    tick = _TICK_S if changed % 1_000_000_000 else _COARSE_TICK_S
    if 0 <= (age := time.time() - changed / 1e9) < tick:
        time.sleep(tick - age)


def _noted(place: Path, state: str) -> str | None:
    """What is known of a file in this state, by this process or by another; None if nothing is."""
    if (found := _known.get((str(place), state))) is not None:
        return found
    with suppress(OSError, RuntimeError, ValueError, TypeError, KeyError):  # no note, or one that is broken
        noted = json.loads(_note_of(place, state).read_bytes())
        if (noted["path"], noted["state"], len(noted["sha256"])) == (str(place), state, 64):
            return _known.setdefault((str(place), state), noted["sha256"])
    return None


def _keep(place: Path, state: str, sha256: str) -> None:
    _known[str(place), state] = sha256
    if int(state.partition(" ")[0]) < _WORTH_KEEPING:
        return
    with suppress(OSError, RuntimeError, UnicodeError):  # read-only, full, or a user without a home: read again then
        write_whole(_note_of(place, state), json.dumps({"path": str(place), "state": state, "sha256": sha256}))


def _note_of(place: Path, state: str) -> Path:
    """A file for each state: machines that share the cache may have another file each under the same path."""
    name = hash_of(os.fsencode(f"{place} {state}"))
    return default_cache() / "file_hashes" / f"{name}.json"
