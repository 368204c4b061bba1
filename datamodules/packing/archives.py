"""Images in a zip or tar, read in place.

A library lists the archive once, into an index on disk; from then on any number of processes read single members by
their place. So an archive of a million images costs no process its memory, and nothing is ever unpacked.
"""

import json
import posixpath
import sqlite3
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast
from urllib.parse import quote

from datamodules.packing.names import MAX_FILE_BYTES, RefusedError, inside, spellings
from lit_avg.utils.errors import UserError

_ENCRYPTED, _NAMED_IN_UTF8 = 0x1, 0x800  # flags of a zip's entry
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of an entry: signature, and the bytes of its name and of its extra field
_LONGEST_PATH = 4096
_TAR = -1  # the "compression method" of a tar's member: no header of its own, no checksum


class Member(NamedTuple):
    """Where a file lies in an archive."""

    name: str
    offset: int  # of a zip's local header, or of a tar's data
    stored: int  # bytes in the archive
    size: int  # bytes when unpacked
    method: int
    crc: int
    pieces: str = ""  # of a sparse file: JSON pairs of place and length; between them, zeros


class Archive:
    """A zip or a tar whose members can be read in any order, by many processes.

    Args:
        path: the archive.
        index: as `build_index` has made it.
    """

    def __init__(self, path: Path, index: Path) -> None:
        self.path = path
        self.index = index

    def read(self, name: str) -> bytes | None:
        """The file of that name, None if there is none.

        Raises:
            RefusedError: it is damaged, too large, or packed in a way that cannot be read.
        """
        for spelling in spellings(name):
            if (row := self._database.execute("SELECT * FROM members WHERE name = ?", (spelling,)).fetchone()) is None:
                continue
            member = Member(*row)
            if member.size > MAX_FILE_BYTES:
                raise RefusedError(f"image too large: {name} has {member.size} bytes")
            return _unpacked(self._file, member)
        return None

    @cached_property
    def _file(self) -> BinaryIO:
        return self.path.open("rb")

    @cached_property
    def _database(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{quote(str(self.index.absolute()))}?mode=ro&immutable=1", uri=True)


def build_index(path: Path, index: Path) -> None:
    """List an archive's files into a database; entries that point outside are left out.

    Raises:
        UserError: it is no archive that can be read in place, or holds no file.
    """
    index.unlink(missing_ok=True)
    database = sqlite3.connect(index)
    try:
        database.execute("PRAGMA synchronous = OFF")  # made anew at every start
        database.execute(
            "CREATE TABLE members (name TEXT PRIMARY KEY, offset INTEGER, stored INTEGER, size INTEGER, method INTEGER,"
            " crc INTEGER, pieces TEXT) WITHOUT ROWID"
        )
        links = dict[str, str]()
        is_zip = zipfile.is_zipfile(path)
        _insert(database, _zip_members(path, links) if is_zip else _tar_members(path, database, links))
        _follow(database, links)
        if database.execute("SELECT 1 FROM members LIMIT 1").fetchone() is None:
            raise UserError(f"there are no images in {path}: it holds no file")
        database.commit()
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise UserError(
            f"{path} is not a readable zip or tar ({error}); fetch it again, or unpack it if it is a compressed tar"
        ) from error
    finally:
        database.close()


def _insert(database: sqlite3.Connection, members: Iterable[Member]) -> None:
    """Of several members of one name the last counts, as in unpacking."""
    named = ((inside(member.name), *member[1:]) for member in members)
    database.executemany("INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, ?, ?, ?)", (it for it in named if it[0]))


def _follow(database: sqlite3.Connection, links: dict[str, str]) -> None:
    """Give the files that symbolic links lead to within the archive the links' names as well.

    Args:
        links: from names to what is written there; a link may lead to another.
    """
    left = {name: inside(posixpath.join(posixpath.dirname(name), target)) for name, target in links.items()}
    while resolved := {name: member for name, target in left.items() if (member := _member(database, target))}:
        _insert(database, [Member(name, *member[1:]) for name, member in resolved.items()])
        left = {name: target for name, target in left.items() if name not in resolved}


def _member(database: sqlite3.Connection, name: str | None) -> Member | None:
    row = database.execute("SELECT * FROM members WHERE name = ?", (name,)).fetchone()
    return None if row is None else Member(*row)


def _zip_members(path: Path, links: dict[str, str]) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            links.pop(_zip_name(info), None)
            if _is_link(info) and not info.flag_bits & _ENCRYPTED and info.file_size < _LONGEST_PATH:
                links[_zip_name(info)] = archive.read(info).decode(errors="surrogateescape")
            elif not info.is_dir() and not _is_link(info):
                method = 99 if info.flag_bits & _ENCRYPTED else info.compress_type
                yield Member(_zip_name(info), info.header_offset, info.compress_size, info.file_size, method, info.CRC)


def _is_link(info: zipfile.ZipInfo) -> bool:
    return info.external_attr >> 28 == 0o12  # the file type of Unix's mode


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Many tools write UTF-8 without saying so, which `zipfile` then takes for the letters of the first PCs."""
    if info.flag_bits & _NAMED_IN_UTF8:
        return info.filename
    try:
        return info.filename.encode("cp437").decode()
    except UnicodeError:
        return info.filename


def _tar_members(path: Path, database: sqlite3.Connection, links: dict[str, str]) -> Iterator[Member]:
    with tarfile.open(path, "r:", encoding="utf-8") as archive:
        for info in archive:
            archive.members = []  # pyright: ignore[reportAttributeAccessIssue]  a list of all would grow
            links.pop(info.name, None)
            if info.issym():
                links[info.name] = info.linkname
            elif info.isreg():
                pieces = cast(list[tuple[int, int]], info.sparse or [])
                stored = sum(length for _, length in pieces) if pieces else info.size
                sparse_map = json.dumps(pieces) if pieces else ""
                yield Member(info.name, info.offset_data, stored, info.size, _TAR, 0, sparse_map)
            elif info.islnk() and (target := _member(database, inside(info.linkname))):  # a file's second name
                yield Member(info.name, *target[1:])


def _unpacked(file: BinaryIO, member: Member) -> bytes:
    file.seek(member.offset)
    if member.method == _TAR:
        data = file.read(member.stored)
        if len(data) < member.stored:
            raise RefusedError(f"image cut off: the archive ends within {member.name}")
        return _spread(data, member) if member.pieces else data
    header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
        raise RefusedError(f"image damaged in the zip: {member.name} is not where the zip says")
    _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
    file.seek(name_bytes + extra_bytes, 1)
    data = _inflated(file.read(member.stored), member)
    if len(data) != member.size or zlib.crc32(data) != member.crc:
        raise RefusedError(f"image damaged in the zip: {member.name} does not have its checksum")
    return data


def _spread(data: bytes, member: Member) -> bytes:
    """A sparse file's pieces where they belong."""
    whole, begin = bytearray(member.size), 0
    for place, length in json.loads(member.pieces):
        whole[place : place + length] = data[begin : begin + length]
        begin += length
    return bytes(whole)


def _inflated(data: bytes, member: Member) -> bytes:
    """No more than the size it is said to have: a few bytes can unpack to any number."""
    if member.method == zipfile.ZIP_STORED:
        return data
    if member.method != zipfile.ZIP_DEFLATED:
        raise RefusedError(f"image packed in an unknown way: {member.name} is encrypted or not deflated; zip it anew")
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, member.size + 1)
    except zlib.error as error:
        raise RefusedError(f"image damaged in the zip: {member.name}: {error}") from error
