"""Reading a whole file from http(s)://, from what fsspec knows (s3://, gs://, …) or from a command (`pipe:`).

A connection that drops is opened again where it broke (HTTP's Range, a seek in fsspec), or at the beginning where that
is not possible, after waits that double. What arrives is held against the length and the hash that are known.

http(s) goes through urllib instead of fsspec: some servers ignore a Range and send the whole file, which fsspec takes
for the part that was asked for.
"""

import contextlib
import hashlib
import http.client
import logging
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from dataclasses import dataclass
from typing import BinaryIO, cast

import fsspec

from lit_avg.errors import UserError

PIPE = "pipe:"

CHUNK = 2**20
"""Bytes read at a time."""

_SILENCE_S = 60.0
"""Seconds without a byte after which a connection counts as dropped."""

_PASSING = {408, 425, 429, 500, 502, 503, 504}
"""HTTP statuses that may be another one in a moment."""

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
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
class _Opened:
    stream: BinaryIO
    begin: int  # which byte comes first
    total: int | None  # bytes of the whole file


class MissingError(UserError):
    """There is no such file, or it is not for us; trying again would not help."""


class _DroppedError(ConnectionError):
    """What arrived is not the file, and another try may bring it."""


def is_remote(location: str) -> bool:
    """Whether a location is a URL or a command, and not a path of this machine."""
    return location.startswith(PIPE) or "://" in location


def fetch(url: str, out: BinaryIO, expected: Expected | None = None, patience: Patience | None = None) -> str:
    """Copy a file to `out`, from its beginning on; its sha256.

    Args:
        url: `pipe:` and a shell command that writes the file, or a URL.
        out: an open file; what it held is overwritten.
        expected: what the file must be like.
        patience: how often a broken connection is tried again.

    Raises:
        MissingError: there is no such file.
        UserError: it did not arrive whole in any of the tries.
    """
    patience = patience or Patience()
    wait = patience.first_wait
    partial = _Partial(url, out, expected or Expected())
    for attempt in range(1, patience.tries + 1):
        try:
            return partial.go_on()
        except (FileNotFoundError, PermissionError) as error:
            raise MissingError(f"{url} cannot be read: {error}") from error
        except (OSError, http.client.HTTPException) as error:
            if attempt == patience.tries:
                raise UserError(f"{url} did not arrive in {attempt} tries; the last ended so: {error}") from error
            _log.warning("%s: %s; trying again in %.1f s (%d of %d)", url, error, wait, attempt, patience.tries)
            time.sleep(wait)
            wait = min(2 * wait, patience.longest_wait)
    raise ValueError(f"tries must be at least 1, but is {patience.tries}")


class _Partial:
    """A file that has arrived up to some byte."""

    def __init__(self, url: str, out: BinaryIO, expected: Expected) -> None:
        self.url = url
        self.out = out
        self.expected = expected
        self._begin_anew()

    def go_on(self) -> str:
        """Read the rest; the sha256 of the whole."""
        with _opened(self.url, self.have) as source:
            if source.begin != self.have:
                self._begin_anew()
            while chunk := source.stream.read(CHUNK):
                self.out.write(chunk)
                self.hash.update(chunk)
                self.have += len(chunk)
        self._check(self.expected.bytes or source.total)
        self.out.truncate()
        return self.hash.hexdigest()

    def _check(self, total: int | None) -> None:
        """See that it is whole; too long or of another hash, the next try begins anew."""
        if total is not None and self.have < total:
            raise _DroppedError(f"the connection ended at byte {self.have} of {total}")
        found = self.hash.hexdigest()
        if (total is not None and self.have > total) or (self.expected.sha256 and found != self.expected.sha256):
            bytes_found = self.have
            self._begin_anew()
            raise _DroppedError(f"its {bytes_found} bytes have sha256 {found}, not the manifest's")

    def _begin_anew(self) -> None:
        self.out.seek(0)
        self.have = 0
        self.hash = hashlib.sha256()


@contextlib.contextmanager
def _opened(url: str, begin: int) -> Generator[_Opened]:
    """The file from byte `begin` on, if that can be had, else from its beginning."""
    if url.startswith(PIPE):
        with _from_command(url.removeprefix(PIPE)) as source:
            yield source
    elif url.startswith(("http://", "https://")):
        with _from_server(url, begin) as source:
            yield source
    else:
        with _from_fsspec(url, begin) as source:
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
def _from_server(url: str, begin: int) -> Generator[_Opened]:
    headers = {"Range": f"bytes={begin}-", "Accept-Encoding": "identity"} if begin else {}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_SILENCE_S)
    except urllib.error.HTTPError as error:
        if error.code in _PASSING:
            raise _DroppedError(f"HTTP status {error.code}") from error
        raise FileNotFoundError(f"HTTP status {error.code} ({error.reason})") from error
    with cast(http.client.HTTPResponse, response) as source:
        part = _CONTENT_RANGE.fullmatch(source.headers.get("Content-Range", ""))
        if source.status == http.HTTPStatus.PARTIAL_CONTENT and part:
            yield _Opened(cast(BinaryIO, source), int(part[1]), int(part[2]))
        else:
            length = source.headers.get("Content-Length")
            yield _Opened(cast(BinaryIO, source), 0, int(length) if length else None)


@contextlib.contextmanager
def _from_fsspec(url: str, begin: int) -> Generator[_Opened]:
    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(f"{url} cannot be read: {error}; s3:// and gs:// need `pip install lit-avg[cloud]`") from error
    with cast(BinaryIO, system.open(path, "rb")) as source:
        source.seek(begin)
        yield _Opened(source, begin, cast(int | None, system.size(path)))
