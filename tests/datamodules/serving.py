"""Shards on the web for the tests: a server whose connections break as they are told, and what is read from it."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from datamodules.fetching import Patience
from datamodules.samples import Sample
from datamodules.shard_cache import ShardCache
from datamodules.shards import ShardedSamples

HASTY = Patience(tries=4, first_wait=0.001)


@dataclass
class Server:
    """A folder on the web.

    `breaks` says after how many bytes the next answers break off, `statuses` which statuses come before any answer;
    both apply to tar files alone.
    """

    folder: Path
    knows_ranges: bool = True
    breaks: list[int] = field(default_factory=list[int])
    statuses: list[int] = field(default_factory=list[int])
    asked: list[tuple[str, str | None]] = field(default_factory=list[tuple[str, str | None]])  # file and Range
    url: str = ""

    def fetched(self, name: str) -> int:
        return sum(asked == name for asked, _ in self.asked)


@contextmanager
def serving(server: Server) -> Generator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, asked = server.folder / self.path.strip("/"), self.headers.get("Range")
            server.asked.append((path.name, asked))
            if not path.is_file():
                return self.send_error(404)
            is_tar = path.suffix == ".tar"
            if is_tar and server.statuses:
                return self.send_error(server.statuses.pop(0))
            data = path.read_bytes()
            begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.knows_ranges else 0
            self.send_response(206 if begin else 200)
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - begin))
            self.end_headers()
            end = begin + server.breaks.pop(0) if is_tar and server.breaks else len(data)
            self.wfile.write(data[begin:end])
            return None

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
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
