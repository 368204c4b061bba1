"""Files and folders that others may be reading: whole or not at all, and for whom the umask lets.

What is written lies beside its place until it is whole, and then moves there in one step. A full disk, or whatever else
ends the writing, leaves the older one and nothing half written; a kill leaves a `*.partial`, which nothing reads.

What only rare cases need is loaded in them: every verb loads this module.
"""

import errno
import os
import re
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_IMODE

READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
"""What the system says where this user may not write."""

OLDER = ".older"
"""How the name of a folder ends while another is put in its place."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
"""What it says of a disk, whichever of its files was written to; of a library's temporary file it names that one."""


def write_whole(path: Path, content: str | bytes, on_disk: bool = False, partial: Path | None = None) -> None:
    """Replace a file; arguments and errors as in `whole_file`."""
    with whole_file(path, on_disk, partial) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole_file(path: Path, on_disk: bool = False, partial: Path | None = None) -> Generator[Path]:
    """Where to write a file that takes its place, in that of an older one, when the block ends well.

    Args:
        path: of the file; its folder is made if it is not there.
        on_disk: see that it is on the disk before, so that not even a failing machine leaves half of it.
        partial: where it lies until then, if a lock sees to it that nobody else uses that name: so what a kill has left
            is written over. Else a name that nobody has.

    Raises:
        OSError: names `path`, also for what libraries in Rust (safetensors, tokenizers) raise of the system's errors.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial or _beside(path)
    with removed_on_failure(partial, path):
        new = _new_file(partial)
        yield partial
        _set_permissions(partial, new)
        if on_disk:
            put_on_disk(partial)
        move(partial, path)


@contextmanager
def whole_folder(path: Path, replace: bool = False) -> Generator[Path]:
    """A folder to fill, which takes its place when the block ends well.

    Args:
        path: of the folder. An empty one that is there stays and is filled: it may be a mount, or where somebody is.
        replace: an older one may be there, which it takes the place of.

    Raises:
        OSError: as in `whole_file`; there is a folder that is not empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stays = not replace and path.is_dir() and not any(path.iterdir())
    name = f"{_token()}.partial"  # in view: it may be large
    partial = path / name if stays else path.with_name(f"{path.name}.{name}")
    with removed_on_failure(partial, path):
        partial.mkdir()
        yield partial
        obey_umask(partial)
        if stays:
            _move_up(partial)
        else:
            (put_in_place if replace else move)(partial, path)


@contextmanager
def removed_on_failure(partial: Path, path: Path) -> Generator[None]:
    """Leave nothing half written, and name the file or folder that was wanted instead; errors as in `whole_file`."""
    try:
        yield
    except BaseException as error:
        remove(partial)
        number = error.errno if isinstance(error, OSError) else _number_of(error)
        if number is None or not _is_about(error, number, partial):
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def move(place: Path, there: Path) -> None:
    """Rename a file or a folder on one disk, in one step; a file replaces another, a folder an empty one."""
    os.replace(place, there)  # noqa: PTH105  Path.replace hides that this is the atomic step


def put_on_disk(path: Path) -> None:
    """See that a file, or all in a folder, is on the disk, so that not even a failing machine leaves half of it."""
    for found in [path, *path.rglob("*")] if path.is_dir() else [path]:
        if found.is_file():
            with found.open("rb") as file:
                os.fsync(file.fileno())


def put_in_place(new: Path, path: Path) -> None:
    """Put a file or a folder where an older one is.

    For a folder that takes two steps, between which the older one is beside its place: `bring_back` finds it there.
    """
    older = older_than(path)
    if path.is_dir() or (path.exists() and new.is_dir()):
        remove(older)
        move(path, older)
    move(new, path)
    remove(older)


def bring_back(path: Path) -> None:
    """Give a file or a folder its place back that a kill left beside it, also from one that is torn."""
    if older_than(path).exists():
        remove(path)
        move(older_than(path), path)


def older_than(path: Path) -> Path:
    """Where the older of two is while the new one is put in its place."""
    return path.with_name(f"{path.name}{OLDER}")


def free_name(path: Path) -> Path:
    """The first of `path-1`, `path-2` and so on that nothing has."""
    number = 1
    while os.path.lexists(free := path.with_name(f"{path.name}-{number}")):
        number += 1
    return free


def remove(path: Path) -> None:
    """Remove a file, or a folder and all in it, if it is there and may be removed."""
    if path.is_dir() and not path.is_symlink():
        import shutil

        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):  # on a read-only disk not even what is not there can be removed
        path.unlink(missing_ok=True)


def obey_umask(path: Path) -> None:
    """Give a file, or all in a folder, the permissions and the group of any new one there.

    Libraries that write by temporary files leave them to their owner alone, and in the owner's own group.
    """
    folder = path if path.is_dir() else path.parent
    probe = _beside(folder / "probe")
    new_file = _new_file(probe)
    probe.unlink()
    probe.mkdir()
    new_folder = probe.stat()
    probe.rmdir()
    for found in [path, *path.rglob("*")] if path.is_dir() else [path]:
        if not found.is_symlink() and found != folder:
            _set_permissions(found, new_folder if found.is_dir() else new_file)


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


def link(place: Path, target: Path) -> None:
    """Let `place` lead to `target`, by a relative link that may move with its folder."""
    place.parent.mkdir(parents=True, exist_ok=True)
    leads = os.path.relpath(target, place.parent)
    if place.is_symlink() and os.readlink(place) == leads:  # noqa: PTH115  the text, not where it leads
        return
    partial = _beside(place)
    partial.symlink_to(leads)
    move(partial, place)


def written(path: Path) -> tuple[int, int] | None:
    """When a file was written, and its size; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size


def _move_up(folder: Path) -> None:
    for path in folder.iterdir():
        move(path, folder.parent / path.name)
    folder.rmdir()


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{_token()}.partial")


def _token() -> str:
    """What no other process or thread has, of this machine or of another that shares the disk."""
    return os.urandom(6).hex()


def _new_file(path: Path) -> os.stat_result:
    """Make an empty file; what the system makes of its permissions, by the umask or by what the folder says."""
    path.unlink(missing_ok=True)
    with path.open("xb") as file:
        return os.fstat(file.fileno())


def _set_permissions(path: Path, new: os.stat_result) -> None:
    found = path.stat()
    if found.st_gid != new.st_gid:
        with suppress(PermissionError):  # of a group that this user is not in
            os.chown(path, -1, new.st_gid)
    if S_IMODE(found.st_mode) != S_IMODE(new.st_mode):
        path.chmod(S_IMODE(new.st_mode))


def _is_about(error: BaseException, number: int, partial: Path) -> bool:
    """Whether an error is of what was to be written, and not of something else that was read for it."""
    named = error.filename if isinstance(error, OSError) else None
    return number in _NO_ROOM or named is None or str(partial) in str(named)


def _number_of(error: BaseException) -> int | None:
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told[1]) if told else None
