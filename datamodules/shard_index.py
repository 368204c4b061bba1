"""Where the samples of a tar file lie, read from its headers alone.

The names are WebDataset's: what comes before the first dot of a file's name is the sample's key.
"""

import tarfile
from typing import BinaryIO

from lit_avg.errors import UserError

Place = tuple[int, int]
"""Offset in the tar file, and bytes."""

ShardIndex = list[tuple[str, dict[str, Place]]]
"""Each sample's key and its members, extension to place, in the order of the tar file."""


def read_index(file: BinaryIO, name: str) -> ShardIndex:
    """The index of an open tar file.

    Args:
        file: it.
        name: what the message calls it.

    Raises:
        UserError: it is not a whole tar file.
    """
    index: dict[str, dict[str, Place]] = {}
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as tar:
            for member in tar:
                if member.isreg():
                    folder, slash, own = member.name.removeprefix("./").rpartition("/")
                    key, _, extension = own.partition(".")
                    index.setdefault(folder + slash + key, {})[extension] = member.offset_data, member.size
    except tarfile.TarError as error:
        raise UserError(f"shard {name} is not a whole tar file: {error}; pack the data again") from error
    return list(index.items())


def read_place(file: BinaryIO, place: Place) -> bytes:
    """The bytes that lie there."""
    file.seek(place[0])
    return file.read(place[1])
