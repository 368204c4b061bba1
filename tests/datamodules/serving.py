"""Shards on the web for the tests: a server whose connections break as they are told, and what is read from it."""

import hashlib
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar, Literal

from datamodules.shards.cache import ShardCache
from datamodules.shards.download import RetryPolicy
from datamodules.shards.reader import ShardedSamples
from datamodules.shards.sample import Sample

HASTY = RetryPolicy(tries=4, first_wait=0.001)


@dataclass
class Server:
    """A folder on the web.

    `breaks` says after how many bytes the next answers break off, `statuses` which statuses come before any answer;
    both apply to tar files alone. `versions` are named by a strong ETag, by a weak one, by a time, or not at all.
    `tells_length`: without it, a connection that breaks behind the last byte looks as any other that breaks.
    """

    folder: Path
    knows_ranges: bool = True
    breaks: list[int] = field(default_factory=list[int])
    statuses: list[int] = field(default_factory=list[int])
    versions: Literal["strong", "weak", "dated", "none"] = "strong"
    tells_length: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list[tuple[str, str | None]])  # file and Range
    sent: list[str] = field(default_factory=list[str])  # files whose content was sent
    url: str = ""

    def fetched(self, name: str) -> int:
        return self.sent.count(name)

    def version(self, data: bytes) -> dict[str, str]:
        """The header that names a file's content; the weak ones are the same for all."""
        strong = f'"{hashlib.sha256(data).hexdigest()[:8]}"'
        headers = {"strong": {"ETag": strong}, "weak": {"ETag": 'W/"1"'}, "none": dict[str, str]()}
        return headers.get(self.versions, {"Last-Modified": "Sat, 28 Nov 2026 00:00:00 GMT"})


class Handler(BaseHTTPRequestHandler):
    """Answers as the server is told."""

    told: ClassVar[Server]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, asked = self.told.folder / self.path.strip("/"), self.headers.get("Range")
        self.told.asked.append((path.name, asked))
        if not path.is_file():
            return self.send_error(404)
        is_tar = path.suffix == ".tar"
        if is_tar and self.told.statuses:
            return self.send_error(self.told.statuses.pop(0))
        data = path.read_bytes()
        begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.told.knows_ranges else 0
        version = self.told.version(data)
        if version.get("ETag") and version["ETag"] == self.headers.get("If-None-Match"):
            return self._without_content(304, version)
        if begin >= len(data) > 0:
            return self._without_content(416, {"Content-Range": f"bytes */{len(data)}"})
        self.told.sent.append(path.name)
        self.send_response(206 if begin else 200)
        for header, value in version.items():
            self.send_header(header, value)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        if self.told.tells_length or not is_tar:
            self.send_header("Content-Length", str(len(data) - begin))
        else:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        end = begin + self.told.breaks.pop(0) if is_tar and self.told.breaks else None
        self._write(data[begin:end], is_tar and not self.told.tells_length, end is None)
        return None

    def _write(self, data: bytes, in_chunks: bool, whole: bool) -> None:
        if in_chunks:
            data = b"%x\r\n%s\r\n" % (len(data), data) + (b"0\r\n\r\n" if whole else b"")
            self.close_connection = True
        self.wfile.write(data)

    def _without_content(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for header, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(header, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(server: Server) -> Generator[Server]:
    handler = type("HandlerOfOne", (Handler,), {"told": server})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def samples_at(location: str | Path, cache: ShardCache) -> list[Sample]:
    samples = ShardedSamples(location, cache=cache)
    return [samples[number] for number in range(len(samples))]


def cached_bytes(cache: ShardCache) -> int:
    return sum(path.stat().st_size for path in cache.folder.iterdir() if path.is_file())
