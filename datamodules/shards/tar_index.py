"""Where the samples of a tar file lie, read from its headers alone. Nothing else in the project reads a shard's names.

The names are WebDataset's (`webdataset.tariterators.base_plus_ext`): a sample's key is what comes before the first dot
of a file's own name, with the folders it lies in, be it `./` alone; what has no such dot, or nothing before it, belongs
to no sample.
"""

import io
import re
import tarfile
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from posixpath import dirname, join, normpath
from typing import BinaryIO

from lit_avg.utils.errors import UserError

Place = tuple[int, int]
"""Offset in the tar file, and bytes."""

_META = re.compile(r"__[^/]*__($|/)")
"""Beginnings of names that WebDataset keeps for what describes a shard (`tar_file_iterator` has no name for them)."""


@dataclass(frozen=True)
class Unreadable:
    """In the place of a file's place: why its bytes cannot be had."""

    reason: str


Members = dict[str, Place | Unreadable]
"""The files of a sample by extension, in small letters."""

ShardIndex = list[tuple[str, Members]]
"""Each sample's key and its files, in the order of the tar file."""


def read_index(file: BinaryIO, name: str) -> ShardIndex:
    """The index of an open tar file.

    Args:
        file: it.
        name: what the message calls it.

    Raises:
        UserError: it is not a whole tar file, or has names with dots within or not in UTF-8.
    """
    index: dict[str, Members] = {}
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as tar:
            files = [member for member in tar if member.isreg() or member.islnk() or member.issym()]
            end = tar.offset
        if not read_place(file, (end, tarfile.BLOCKSIZE)):  # cut off between two files
            raise tarfile.ReadError("it lacks the zeros that end one")
    except (tarfile.TarError, ValueError) as error:  # a ValueError of extended headers
        raise UserError(f"shard {name} is not a whole tar file: {error}; pack the data again") from error
    linked = any(not member.isreg() for member in files)
    by_name = {normpath(member.name): member for member in files} if linked else {}
    for member in files:
        if (key_and_extension := split_name(member.name)) is not None:
            key, extension = key_and_extension
            if extension.endswith(".json"):
                raise UserError(
                    f"shard {name}: a sample's key ends at the first dot of a file's name, as in WebDataset, so all "
                    f"files {key}.… are one sample {key}, {member.name} among them; put other signs in the place of "
                    "the dots, or pack the data with `lit-avg shard`"
                )
            if not _is_text(key):
                raise UserError(f"shard {name}: the name {member.name!a} is not UTF-8; pack the data again")
            index.setdefault(key, {})[extension] = _place_of(member, by_name)
    return list(index.items())


def split_name(name: str) -> tuple[str, str] | None:
    """Key and extension of a file in a shard; None for one that belongs to no sample."""
    from webdataset.tariterators import base_plus_ext  # brings torch along, which packing does without

    key, extension = (None, None) if _META.match(name) else base_plus_ext(name)
    return None if key is None or extension is None else (key, extension.lower())


def read_place(file: BinaryIO, place: Place) -> bytes:
    """The bytes that lie there."""
    file.seek(place[0])
    return file.read(place[1])


class PlaceReader(io.RawIOBase):
    """A file within an open tar file, for who wants to read no more of it than its beginning.

    Args:
        file: the tar file.
        place: where in it.
    """

    def __init__(self, file: BinaryIO, place: Place) -> None:
        self.file = file
        self.begin, self.size = place
        self.at = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of any file."""
        self.at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence])
        return self.at

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As of any file."""
        self.file.seek(self.begin + self.at)
        data = self.file.read(max(0, min(len(buffer), self.size - self.at)))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)


def _is_text(name: str) -> bool:
    """Whether a name can be written down: tarfile has halves of characters in the place of bytes that are no UTF-8."""
    return name.isascii() or not any(unicodedata.category(sign) == "Cs" for sign in name)


def _place_of(member: tarfile.TarInfo, by_name: Mapping[str, tarfile.TarInfo]) -> Place | Unreadable:
    """Where the bytes of a file are, links followed within the tar file."""
    found, seen = member, set[str]()
    while not found.isreg():
        place = found.linkname if found.islnk() else join(dirname(found.name), found.linkname)
        target = by_name.get(normpath(place))
        if target is None or target.name in seen:
            return Unreadable(
                f"a link to {found.linkname}, which is not in the tar file; make that with "
                "`tar --dereference --hard-dereference`"
            )
        seen.add(found.name)
        found = target
    if found.issparse():
        return Unreadable("stored with holes left out; make the tar file without --sparse")
    return found.offset_data, found.size
