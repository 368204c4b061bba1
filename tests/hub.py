"""A model hub on this machine, as far as huggingface_hub asks for it: what a repository holds, and its files."""

import hashlib
import json
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _handler(root: Path) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

        def _answer(self, with_body: bool) -> None:
            path = self.path.partition("?")[0].removeprefix("/api/models").strip("/")
            owner, name, what, *rest = [*path.split("/"), "revision"]  # of a name alone, the newest
            body = _body(root / owner / name, what, rest)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.send_header("X-Repo-Commit", COMMIT)
            if body is None:
                known = (root / owner / name).is_dir()
                self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
            self.send_header("ETag", f'"{hashlib.sha256(body or b"").hexdigest()}"')
            self.end_headers()
            if with_body and body is not None:
                self.wfile.write(body)

    return Handler


def _body(repository: Path, what: str, rest: list[str]) -> bytes | None:
    """Of a `revision`, the `tree` of its files, or what a name at a commit will `resolve` to."""
    if not repository.is_dir():
        return None
    files = sorted(repository.iterdir())
    if what == "revision":
        return json.dumps({"id": repository.name, "sha": COMMIT, "siblings": []}).encode()
    if what == "tree":
        return json.dumps(
            [{"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0"} for file in files]
        ).encode()
    found = repository / rest[-2]
    return found.read_bytes() if found in files else None


@contextmanager
def hub(root: Path) -> Generator[dict[str, str]]:
    """Serve `root/<owner>/<name>` as repositories; yields the environment in which a process asks here alone."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(root))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        here = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(root / "cache")}
        yield {**os.environ, **here, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}
    finally:
        server.shutdown()
        server.server_close()
