"""Shards from elsewhere, kept on this machine: whole, verified, and never more of them than there is room for.

All processes of a machine share the folder. Each shard is fetched by one of them while the others wait for it, and
appears under its name only when it is whole. The shard that was used longest ago makes room for a new one; whoever is
reading it goes on, since an open file outlives its name.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from filelock import FileLock, Timeout

from datamodules.fetching import Expected, Patience, fetch
from lit_avg.cache_folder import default_cache
from lit_avg.errors import UserError

_PART = ".part"

_GLANCE_S = 0.05
"""How often to look whether others' downloads have come to their end."""


def default_shard_cache(gigabytes: float = 100.0) -> "ShardCache":
    """The cache of shards that runs share unless they are told otherwise."""
    return ShardCache(default_cache() / "shards", int(gigabytes * 1e9))


@dataclass(frozen=True)
class ShardCache:
    """A folder of fetched shards.

    Args:
        folder: made when first needed.
        max_bytes: of all shards in it together.
        patience: with connections that drop.
    """

    folder: Path
    max_bytes: int
    patience: Patience = field(default_factory=Patience)

    def open(self, url: str, expected: Expected) -> BinaryIO:
        """A shard, fetched if it is not here.

        Args:
            url: where it is.
            expected: its hash, under which it is kept, and its size.

        Raises:
            UserError: it cannot be fetched, or is larger than the whole cache.
        """
        path = self.folder / expected.sha256
        while True:  # between fetching and opening others may already have pushed it out again
            try:
                file = path.open("rb")
            except FileNotFoundError:
                with self.lock(path.name):
                    if not path.exists():
                        self._fetch(url, path.with_name(path.name + _PART), expected)
                continue
            with contextlib.suppress(FileNotFoundError):
                now = time.time_ns()
                os.utime(path, ns=(now, now))  # without these, to the coarse tick of the kernel
            return file

    def describe(self, url: str) -> Expected:
        """Hash and size of a shard of which nothing is known, found by fetching it.

        Raises:
            UserError: it cannot be fetched, or is larger than the whole cache.
        """
        name = hashlib.sha256(url.encode()).hexdigest()
        with self.lock(name):
            found = self._fetch(url, self.folder / (name + _PART), Expected())
        with self.lock("room"):
            self._evict(self.max_bytes)
        return found

    def lock(self, name: str) -> FileLock:
        """One process of the machine at a time; a killed one gives way."""
        locks = self.folder / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        return FileLock(locks / name)

    def _fetch(self, url: str, part: Path, expected: Expected) -> Expected:
        self._reserve(url, part, expected.bytes)
        with _removed_on_failure(part):
            with part.open("r+b") as out:
                digest = fetch(url, out, expected, self.patience)
                os.fsync(out.fileno())
                found = Expected(digest, out.tell())
            self._check_room(url, found.bytes)
            part.replace(self.folder / digest)
        return found

    def _check_room(self, url: str, needed: int) -> None:
        if needed > self.max_bytes:
            raise UserError(
                f"{url} has {needed / 1e9:.3g} GB and the cache holds {self.max_bytes / 1e9:.3g}; raise cache_gb"
            )

    def _reserve(self, url: str, part: Path, needed: int) -> None:
        """Make an empty file of the shard's size, when there is room for it."""
        self._check_room(url, needed)
        while True:
            with self.lock("room"):
                part.unlink(missing_ok=True)  # of a process that was killed
                if self._evict(self.max_bytes - needed):
                    with part.open("wb") as file:
                        file.truncate(needed)
                    return
            time.sleep(_GLANCE_S)  # the rest is being fetched by others, and can go as soon as it is whole

    def _evict(self, room: int) -> bool:
        """Remove the shards used longest ago until no more than `room` bytes are left; whether that was possible."""
        by_use = sorted(self._files())
        total = sum(size for _, size, _ in by_use)
        for _, size, path in by_use:
            if total <= room:
                break
            if path.suffix != _PART or self._is_left_behind(path):
                path.unlink(missing_ok=True)
                total -= size
        return total <= room

    def _files(self) -> Generator[tuple[int, int, Path]]:
        """When each file was last used, its size and its path."""
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # it has become whole, and has another name now
                found = path.stat()
                if S_ISREG(found.st_mode):
                    yield found.st_mtime_ns, found.st_size, path

    def _is_left_behind(self, part: Path) -> bool:
        """Whether nobody is fetching it any more."""
        try:
            with self.lock(part.name.removesuffix(_PART)).acquire(blocking=False):
                return True
        except Timeout:
            return False


@contextlib.contextmanager
def _removed_on_failure(part: Path) -> Generator[None]:
    try:
        yield
    except BaseException:
        part.unlink(missing_ok=True)
        raise
