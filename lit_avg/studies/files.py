"""Files that others may be reading: whole or not at all."""

import os
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a file at one stroke; a crash or a full disk leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(partial, path)  # noqa: PTH105  Path.replace hides that this is the atomic step
    except OSError as error:
        error.filename = str(path)  # a full disk names none, and nobody knows the partial file
        raise
    finally:
        partial.unlink(missing_ok=True)


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
