"""`RankWatch`: a rank that dies ends the job within seconds, and what it died of is told last.

A rank that waits for another in a collective need not notice that the other is gone: NCCL waits for its time-out, and
gloo says no more than that a connection was closed. So each rank holds a connection to the first, which the system
closes however the rank ends, and which nobody writes to but to say good-bye, or what was wrong. The first passes it on;
who hears of a rank that is lost says so and ends.
"""

import json
import os
import re
import secrets
import selectors
import socket
import sys
import threading
from dataclasses import dataclass
from typing import Any, cast

import lightning as L

_HELLO_SECONDS = 60.0
"""For all ranks to connect; they have talked to each other just before."""

_GRACE_SECONDS = 3.0
"""Between the news that a rank is lost and the end, for the main thread to end by itself."""

_COLLECTIVE = re.compile(
    "Connection (closed|reset|refused)|Broken pipe|[Ss]ocket|gloo|Gloo|NCCL|process group|timed out"
)
"""What an error says that comes of another rank's end."""

KILLED = "ended without a word, as a process does that is killed, often because memory has run out"


@dataclass(frozen=True)
class LostRank:
    """A rank that did not come to its end."""

    rank: int
    reason: str

    def __str__(self) -> str:
        return f"rank {self.rank} {self.reason}"


class RankWatch(L.Callback):
    """Watches over the ranks of a run; who runs the trainer calls `close` when it is done, or `ends` with an error."""

    def __init__(self) -> None:
        self.rank = 0
        self.lost: LostRank | None = None
        self._peers = dict[int, socket.socket]()  # the first rank's: all others; theirs: the first
        self._done = set[int]()
        self._told, self._ending = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Connect, once for a run; every rank comes here with its process group ready."""
        if trainer.world_size == 1 or self._thread is not None:
            return
        self.rank = trainer.global_rank
        server = socket.create_server(("", 0), backlog=trainer.world_size) if self.rank == 0 else None
        environment = cast(Any, trainer.strategy).cluster_environment
        place = (environment.main_address, server.getsockname()[1], secrets.token_hex(16)) if server else None
        place = cast(tuple[str, int, str], trainer.strategy.broadcast(place))
        try:
            self._connect(server, place, trainer.world_size)
        except OSError as error:
            print(f"lit-avg: ranks do not watch over each other: {error}", file=sys.stderr)
            return
        self._thread = threading.Thread(target=self._watch, daemon=True, name="rank-watch")
        self._thread.start()

    def close(self) -> None:
        """This rank ends as it should, or as somebody has asked it to."""
        if not self._ending.is_set():
            self._say({"rank": self.rank, "done": True})
        self._ending.set()

    def ends(self, error: Exception) -> None:
        """An error ends this rank: tell the others what it is, unless it comes of another rank's end.

        Raises:
            SystemExit: another rank was lost before, which has been told; what a collective says of that is no news.
        """
        if self._thread is not None and _COLLECTIVE.search(str(error)) and self._told.wait(_GRACE_SECONDS):
            self._ending.set()
            raise SystemExit(1) from error
        said = " ".join(str(error).split())[:500]
        self._say({"rank": self.rank, "reason": f"stopped: {said}" if said else f"stopped: {type(error).__name__}"})
        self._ending.set()

    def _connect(self, server: socket.socket | None, place: tuple[str, int, str], ranks: int) -> None:
        host, port, token = place
        if server is None:
            connection = socket.create_connection((host, port), timeout=_HELLO_SECONDS)
            connection.sendall(_line({"rank": self.rank, "token": token}))
            self._peers[0] = connection
        else:
            server.settimeout(_HELLO_SECONDS)
            while len(self._peers) < ranks - 1:
                connection, _ = server.accept()
                connection.settimeout(_HELLO_SECONDS)
                hello = json.loads(connection.makefile("rb").readline() or b"{}")
                if hello.get("token") == token:
                    self._peers[int(hello["rank"])] = connection
            server.close()
        for connection in self._peers.values():
            connection.settimeout(None)

    def _watch(self) -> None:
        """In a thread: whoever hangs up without good-bye is lost."""
        with selectors.DefaultSelector() as selector:
            for rank, connection in self._peers.items():
                selector.register(connection, selectors.EVENT_READ, (rank, connection.makefile("rb")))
            while self._done != set(self._peers) and self.lost is None:
                for key, _ in selector.select():
                    rank, lines = key.data
                    line = lines.readline()
                    self._hear(rank, json.loads(line) if line else {"rank": rank, "reason": KILLED})
                    if self._done & {rank}:
                        selector.unregister(key.fileobj)
        if self.lost is not None and not self._ending.is_set():
            print(f"lit-avg: {self.lost}; so rank {self.rank} ends, too", file=sys.stderr, flush=True)
            self._told.set()
            if not self._ending.wait(_GRACE_SECONDS):
                sys.stdout.flush()
                os._exit(1)

    def _hear(self, rank: int, news: dict[str, Any]) -> None:
        if news.get("done"):
            self._done.add(rank)
            return
        self.lost = LostRank(int(news["rank"]), str(news["reason"]))
        if self.rank == 0:
            self._say(news)

    def _say(self, news: dict[str, Any]) -> None:
        for connection in self._peers.values():
            try:
                connection.sendall(_line(news))
            except OSError:  # who is gone needs no news
                continue


def _line(news: dict[str, Any]) -> bytes:
    return json.dumps(news).encode() + b"\n"
