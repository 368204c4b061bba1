"""Files that others may be reading: whole or not at all.

What only rare cases need is loaded in them: every verb loads this module.
"""

import errno
import os
import re
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
"""What the system says where this user may not write."""


def obey_umask(folder: Path) -> None:
    """Give the files of a folder the permissions of any new file; libraries that write by temporary ones leave 0600."""
    mask = os.umask(0o077)
    os.umask(mask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~mask)


def writable(folder: Path) -> Path:
    """The folder, there or not, if this user may write into it; else a new one for temporary files."""
    import tempfile

    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            return folder
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
    return Path(tempfile.mkdtemp(prefix="lit-avg-"))


@contextmanager
def tidy(partial: Path, path: Path) -> Generator[None]:
    """Leave nothing half written where a file or folder cannot be written, and name the one that was wanted.

    Raises:
        OSError: also for what libraries in Rust (safetensors, tokenizers) raise of the system's errors.
    """
    try:
        yield
    except Exception as error:
        _remove(partial)
        number = error.errno if isinstance(error, OSError) else _number_of(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _remove(path: Path) -> None:
    if path.is_dir():
        import shutil

        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):  # on a read-only disk not even what is not there can be removed
        path.unlink(missing_ok=True)


def _number_of(error: Exception) -> int | None:
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told[1]) if told else None


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a file at one stroke; a crash or a full disk leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with tidy(partial, path):
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(partial, path)  # noqa: PTH105  Path.replace hides that this is the atomic step


def link(place: Path, target: Path) -> None:
    """Let `place` lead to `target`, by a relative link that may move with its folder."""
    place.parent.mkdir(parents=True, exist_ok=True)
    leads = os.path.relpath(target, place.parent)
    if place.is_symlink() and os.readlink(place) == leads:  # noqa: PTH115  the text, not where it leads
        return
    partial = place.with_name(f".{place.name}.{os.getpid()}.link")
    partial.unlink(missing_ok=True)
    partial.symlink_to(leads)
    os.replace(partial, place)  # noqa: PTH105  see above


def written(path: Path) -> tuple[int, int] | None:
    """When a file was written, and its size; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size
