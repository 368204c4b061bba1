"""Reading a whole file from http(s)://, from what fsspec knows (s3://, gs://, …) or from a command (`pipe:`).

A connection that drops is opened again where it broke (HTTP's Range, a seek in fsspec), or at the beginning where that
is not possible or the file has been changed, after waits that double. What arrives is held against the length and the
hash that are known. A server that names versions of a file (a strong ETag) is asked whether it has another one than is
known; one that names none, or names those that may differ in some bytes, has to send the file again.

http(s) goes through urllib instead of fsspec: some servers ignore a Range and send the whole file, which fsspec takes
for the part that was asked for.
"""

import contextlib
import hashlib
import http.client
import io
import logging
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from dataclasses import dataclass
from email.message import Message
from typing import Any, BinaryIO, cast

import fsspec

from lit_avg.utils.errors import UserError

PIPE = "pipe:"

CHUNK = 2**20
"""Bytes read at a time."""

_SILENCE_S = 60.0
"""Seconds without a byte after which a connection counts as dropped."""

_PASSING = {408, 425, 429, 500, 502, 503, 504}
"""HTTP statuses that may be another one in a moment."""

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")

_NO_CONTENT = re.compile(r"bytes \*/(\d+)")
"""The same header where there is nothing behind the byte that was asked for."""

_DATED = "Last-Modified: "
"""Beginning of a version that is but a time; a file may change twice within its second, or be given an old time."""

_VERSIONS = ("ETag", "etag", "md5Hash")
"""What object stores call an object's content by, as fsspec tells it."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how long a broken connection is tried again."""

    tries: int = 8
    first_wait: float = 0.5  # seconds; each wait is twice the one before
    longest_wait: float = 30.0


@dataclass(frozen=True)
class Expected:
    """What a file must be like; empty and 0 for what is not known."""

    sha256: str = ""
    bytes: int = 0


@dataclass(frozen=True)
class Fetched:
    """What has arrived."""

    sha256: str
    bytes: int
    version: str  # what its server calls this very content; empty if it does not


@dataclass(frozen=True)
class _Opened:
    stream: BinaryIO
    begin: int  # which byte comes first
    total: int | None  # bytes of the whole file
    version: str | None = ""  # what the server calls the content, be it for sure or not; None if it was not asked


class MissingError(UserError):
    """There is no such file, or it is not for us; trying again would not help."""


class _DroppedError(ConnectionError):
    """What arrived is not the file, and another try may bring it."""


class _UnchangedError(Exception):
    """It is the version that was known before."""


def is_remote(location: str) -> bool:
    """Whether a location is a URL or a command, and not a path of this machine."""
    return location.startswith(PIPE) or "://" in location


def fetch(
    url: str, out: BinaryIO, expected: Expected | None = None, retry: RetryPolicy | None = None, unless: str = ""
) -> Fetched | None:
    """Copy a file to `out`, from its beginning on.

    Args:
        url: `pipe:` and a shell command that writes the file, or a URL.
        out: an open file; what it held is overwritten.
        expected: what the file must be like.
        retry: how often a broken connection is tried again.
        unless: the version that is known already.

    Returns:
        Its hash; None if it is still the version that is known, and nothing was copied.

    Raises:
        MissingError: there is no such file.
        UserError: it did not arrive whole in any of the tries.
    """
    retry = retry or RetryPolicy()
    wait = retry.first_wait
    partial = _Partial(url, out, expected or Expected(), unless)
    for attempt in range(1, retry.tries + 1):
        try:
            return partial.go_on()
        except _UnchangedError:
            return None
        except (FileNotFoundError, PermissionError) as error:
            raise MissingError(f"{url} cannot be read: {error}") from error
        except (OSError, http.client.HTTPException) as error:
            if attempt == retry.tries:
                raise UserError(f"{url} did not arrive in {attempt} tries; the last ended so: {error}") from error
            _log.warning("%s: %s; trying again in %.1f s (%d of %d)", url, error, wait, attempt, retry.tries)
            time.sleep(wait)
            wait = min(2 * wait, retry.longest_wait)
    raise ValueError(f"tries must be at least 1, but is {retry.tries}")


class _Partial:
    """A file that has arrived up to some byte."""

    def __init__(self, url: str, out: BinaryIO, expected: Expected, unless: str) -> None:
        self.url = url
        self.out = out
        self.expected = expected
        self.unless = unless
        self._begin_anew()

    def go_on(self) -> Fetched:
        """Read the rest; the sha256 of the whole."""
        with _opened(self.url, self.have, self.unless) as source:
            if source.begin != self.have:
                self._begin_anew()
            if self.have and source.version not in (None, self.version):
                self._begin_anew()
                raise _DroppedError("it was changed while it was read")
            self.version = source.version or self.version
            try:
                while chunk := source.stream.read(CHUNK):
                    self._take(chunk)
            except http.client.IncompleteRead as error:
                self._take(error.partial)
                raise
        self._check(self.expected.bytes or source.total)
        self.out.truncate()
        return Fetched(self.hash.hexdigest(), self.have, self.version if _is_sure(self.version) else "")

    def _take(self, chunk: bytes) -> None:
        self.out.seek(self.have)
        self.out.write(chunk)
        self.hash.update(chunk)
        self.have += len(chunk)

    def _check(self, total: int | None) -> None:
        """See that it is whole; too long or of another hash, the next try begins anew."""
        if total is not None and self.have < total:
            raise _DroppedError(f"the connection ended at byte {self.have} of {total}")
        found = self.hash.hexdigest()
        if (total is not None and self.have > total) or (self.expected.sha256 and found != self.expected.sha256):
            bytes_found = self.have
            self._begin_anew()
            raise _DroppedError(
                f"its {bytes_found} bytes have sha256 {found}, not the manifest's, or the one they had at first"
            )

    def _begin_anew(self) -> None:
        self.out.seek(0)
        self.have = 0
        self.hash = hashlib.sha256()
        self.version = ""


def _is_sure(version: str) -> bool:
    """Whether two files of this version are equal to the last byte."""
    return bool(version) and not version.startswith(("W/", _DATED))


@contextlib.contextmanager
def _opened(url: str, begin: int, unless: str) -> Generator[_Opened]:
    """The file from byte `begin` on, if that can be had, else from its beginning.

    Raises:
        _UnchangedError: it is the version `unless`.
    """
    if url.startswith(PIPE):
        with _from_command(url.removeprefix(PIPE)) as source:
            yield source
    elif url.startswith(("http://", "https://")):
        with _from_server(url, begin, unless) as source:
            yield source
    else:
        with _from_fsspec(url, begin, unless) as source:
            yield source


@contextlib.contextmanager
def _from_command(command: str) -> Generator[_Opened]:
    """What a command of the user's own writes; nothing of the data ever becomes part of it."""
    with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE) as process:
        try:
            yield _Opened(cast(BinaryIO, process.stdout), 0, None)
            status = process.wait()
        finally:
            process.kill()  # it has ended, unless reading it failed
    if status:
        raise _DroppedError(f"the command ended with status {status}")


@contextlib.contextmanager
def _from_server(url: str, begin: int, unless: str) -> Generator[_Opened]:
    headers = {"Range": f"bytes={begin}-", "Accept-Encoding": "identity"} if begin else {}
    headers |= {"If-None-Match": unless} if unless and not begin else {}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_SILENCE_S)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.NOT_MODIFIED and "If-None-Match" in headers:
            raise _UnchangedError from error
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and begin:
            # the connection dropped behind the last byte, or the file is a shorter one by now
            yield _nothing_more(error.headers, begin)
            return
        if error.code in _PASSING:
            raise _DroppedError(f"HTTP status {error.code}") from error
        raise FileNotFoundError(f"HTTP status {error.code} ({error.reason})") from error
    with cast(http.client.HTTPResponse, response) as source:
        part = _CONTENT_RANGE.fullmatch(source.headers.get("Content-Range", ""))
        version = _version_of(source.headers)
        if source.status == http.HTTPStatus.PARTIAL_CONTENT and part:
            yield _Opened(cast(BinaryIO, source), int(part[1]), int(part[2]), version)
        else:
            length = source.headers.get("Content-Length")
            yield _Opened(cast(BinaryIO, source), 0, int(length) if length else None, version)


def _nothing_more(headers: Message, begin: int) -> _Opened:
    """What a server's refusal to send anything from a byte on means: that was the end, or it is another file by now."""
    total = _NO_CONTENT.fullmatch(headers.get("Content-Range", ""))
    if total is not None and int(total[1]) == begin:
        return _Opened(io.BytesIO(), begin, begin, version=None)
    return _Opened(io.BytesIO(), 0, begin, version=None)  # nothing came of it: read again from the beginning


def _version_of(headers: Message) -> str:
    """What a server calls the content of a file: its ETag, or when it was changed, to the second."""
    dated = headers.get("Last-Modified", "")
    return headers.get("ETag", "") or (f"{_DATED}{dated}" if dated else "")


@contextlib.contextmanager
def _from_fsspec(url: str, begin: int, unless: str) -> Generator[_Opened]:
    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(f"{url} cannot be read: {error}; s3:// and gs:// need `pip install lit-avg[cloud]`") from error
    system.invalidate_cache()  # of what an earlier listing said
    told = cast(dict[str, Any], system.info(path))
    version = next((f"{told[name]}" for name in _VERSIONS if told.get(name)), "")
    if unless and version == unless and not begin:
        raise _UnchangedError
    with cast(BinaryIO, system.open(path, "rb")) as source:
        source.seek(begin)
        yield _Opened(source, begin, cast(int | None, system.size(path)), version)
