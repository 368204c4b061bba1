"""The records of annotation files, one after the other, whatever the files' size.

A file is a JSON list, which is parsed as it is read, or has one record a line; its first sign tells which.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ijson

from lit_avg.errors import UserError

_BOM = b"\xef\xbb\xbf"


class Record(NamedTuple):
    """One record, not yet looked at."""

    source: str  # where it stands, such as `chat.json#17`, counted from 0
    value: Any  # what JSON makes of it, or the `ValueError` that its line is


class Records:
    """All records of some files, in order.

    Args:
        annotations: the files.

    Raises:
        UserError: one of them is not there.
    """

    def __init__(self, annotations: Sequence[Path]) -> None:
        for path in annotations:
            if not path.is_file():
                raise UserError(f"there is no annotations file {path}; say with --annotations where it is")
        self.annotations = annotations
        self.bytes_in_all = sum(path.stat().st_size for path in annotations)
        self.bytes_read = 0

    def __iter__(self) -> Iterator[Record]:
        """Read them.

        Raises:
            UserError: a file is neither a list nor lines of JSON, or ends in the middle.
        """
        self.bytes_read = 0
        for path in self.annotations:
            before = self.bytes_read
            with path.open("rb") as file:
                for number, value in enumerate(_values(file, path)):
                    self.bytes_read = before + file.tell()
                    yield Record(f"{path.name}#{number}", value)
            self.bytes_read = before + path.stat().st_size


def _values(file: BinaryIO, path: Path) -> Iterator[Any]:
    begin = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
    file.seek(begin)
    first = _first_sign(file)
    file.seek(begin)
    if first == b"[":
        return _list_items(file, path)
    if first in (b"{", b""):
        return _lines(file)
    raise UserError(f"{path} is not JSON: it begins with {first!r}, but a list with `[` and a record a line with `{{`")


def _first_sign(file: BinaryIO) -> bytes:
    while sign := file.read(1):
        if not sign.isspace():
            return sign
    return b""


def _list_items(file: BinaryIO, path: Path) -> Iterator[Any]:
    number = 0
    try:
        for item in ijson.items(file, "item", use_float=True):
            yield item
            number += 1
    except (ijson.JSONError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path} is not JSON behind its first {number} records: {reason}; fetch it again") from error


def _lines(file: BinaryIO) -> Iterator[Any]:
    for line in file:
        if line.strip():
            yield _parsed(line)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        return error
