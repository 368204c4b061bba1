"""What a record calls its image, and where that may be.

Names are relative paths. One that leaves its root, by `..`, by a leading `/` or by a drive's letter, is refused, and so
is an entry of an archive.
"""

import posixpath
import re
import unicodedata
from collections.abc import Iterator, Sequence

MAX_FILE_BYTES = 2**28
"""An image file of more is none, and reading it might take all memory."""

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


class RefusedError(ValueError):
    """What cannot be packed; the message is the reason."""


def inside(name: str) -> str | None:
    """The name in its shortest form, or None if it points outside of its root."""
    short = posixpath.normpath(name)
    if short.startswith(("/", "../")) or short == "..":
        return None
    elsewhere_on_windows = ".." in name.split("\\") or short.startswith("\\") or _DRIVE.match(short)
    return None if elsewhere_on_windows else short


def candidates(name: str, prefix: str, folders: Sequence[str]) -> Iterator[str]:
    """Where an image may lie below a root, the likeliest first.

    Args:
        name: the image's, in its shortest form; begins with the prefix.
        prefix: of the names that the root is for, in its shortest form, empty for all.
        folders: folders that the archives of this data set are known to put around their images.
    """
    rest = name[len(prefix) :].lstrip("/")
    outer = prefix.split("/") if prefix else []
    for kept in range(len(outer) + 1):  # `coco/train2017=train2017.zip` holds x.jpg or train2017/x.jpg
        yield posixpath.join(*outer[len(outer) - kept :], rest)
    for folder in folders:
        yield posixpath.join(folder, rest)


def spellings(name: str) -> list[str]:
    """The name as it is, and with its accents composed and decomposed, as file systems may have done."""
    forms = [name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)]
    return list(dict.fromkeys(forms))


def with_other_extensions(name: str) -> list[str]:
    """The name with the extensions that images are saved under."""
    stem = posixpath.splitext(name)[0]
    return [stem + extension for extension in (".jpg", ".jpeg", ".png", ".gif", ".webp", ".JPG", ".JPEG", ".PNG")]
