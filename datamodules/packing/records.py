"""The records of annotation files, one after the other, whatever the files' size.

A file is a JSON list, which is parsed as it is read, or has one record a line; its first sign tells which. A record
means the same in either: `NaN` is a number, integers may have any length, and text that is not UTF-8 spoils the record
it is in, but no other.
"""

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from lit_avg.utils.errors import UserError

_BOM = b"\xef\xbb\xbf"

_READ = 2**16
"""Bytes of a list that are read at a time."""

_LONGEST = 2**26
"""Signs of a list in which a record must end, or it is none: a mistake would else be looked for in the whole file."""

_SPACE = re.compile(r"[ \t\n\r]*")

_DIGITS = 4300
"""Python makes no number of more; they are kept as text."""


def _whole_number(digits: str) -> int | str:
    return int(digits) if len(digits) <= _DIGITS else digits


_DECODER = json.JSONDecoder(parse_int=_whole_number)


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
    text, number = _ListText(file), 0
    try:
        text.take("[")
        while text.next_sign() != "]" or number:
            yield text.value()
            number += 1
            if text.next_sign() == "]":
                break
            text.take(",")
        text.take("]")
        text.take("")
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)  # its places are of this piece
        raise UserError(f"{path} is not JSON behind its first {number} records: {reason}; fetch it again") from error


class _ListText:
    """The text of a list, of which no more is held than the record that is being parsed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._text, self._at, self._ended = "", 0, False

    def next_sign(self) -> str:
        """The next sign that is no space; nothing at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # pyright: ignore[reportOptionalMemberAccess]  always
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._read_on()

    def take(self, sign: str) -> None:
        """Go beyond the next sign.

        Raises:
            ValueError: it is another one.
        """
        if (sign_there := self.next_sign()) != sign:
            raise ValueError(f"there is {sign_there!r} where {sign!r} should be" if sign_there else "it ends there")
        self._at += 1

    def value(self) -> Any:
        """The next value, or the `ValueError` that its text is no UTF-8.

        Raises:
            ValueError: it is no JSON.
        """
        self.next_sign()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
                if end < len(self._text) or self._ended:  # else a number may go on
                    break
            except ValueError:
                if self._ended or len(self._text) - self._at > _LONGEST:
                    raise
            self._read_on()
        text, self._at = self._text[self._at : end], end
        mistake = _mistake_in(text)
        return value if mistake is None else mistake

    def _read_on(self) -> None:
        data = self._file.read(max(_READ, len(self._text) - self._at))  # doubling, since parsing begins anew
        self._text, self._at = self._text[self._at :] + self._decode(data, not data), 0
        self._ended = not data


def _mistake_in(text: str) -> ValueError | None:
    try:
        text.encode()
    except UnicodeEncodeError:  # what stands for bytes that are none
        return UnicodeDecodeError("utf-8", text.encode("utf-8", "surrogateescape"), 0, 1, "text that is not UTF-8")
    return None


def _lines(file: BinaryIO) -> Iterator[Any]:
    for line in file:
        if line.strip():
            yield _parsed(line.removeprefix(_BOM))


def _parsed(line: bytes) -> Any:
    try:
        return _DECODER.decode(line.decode())
    except (ValueError, RecursionError) as error:
        return error if isinstance(error, ValueError) else ValueError("nested too deeply")
