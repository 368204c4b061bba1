"""Shards from elsewhere, kept on this machine: whole, verified, and never more of them than there is room for.

All processes of a machine share the folder. Each shard is fetched by one of them while the others wait for it, and
appears under its name only when it is whole. The shard that was used longest ago makes room for a new one; whoever is
reading it goes on, since an open file outlives its name.

Users of a group fill one together where its folder hands the group on (`chmod 2775`) and their umask is 002. Whoever
may only read it reads what is there.
"""

import contextlib
import json
import logging
import os
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from datamodules.shards.download import Expected, Fetched, RetryPolicy, fetch
from lit_avg.utils.atomic_io import move, removed_on_failure, write_whole
from lit_avg.utils.cache_folder import CACHE_VARIABLE, default_cache
from lit_avg.utils.errors import UserError
from lit_avg.utils.hashing import file_sha256, hash_of, keep_sha256
from lit_avg.utils.locks import BusyError, file_lock

_PART = ".part"

_USED = "used"
"""Folder with an empty file for each shard, whose time is that of its last use."""

_GLANCE_S = 0.05
"""How often to look whether others' downloads have come to their end."""

_log = logging.getLogger(__name__)


def default_shard_cache(gigabytes: float = 100.0) -> "ShardCache":
    """The cache of shards that runs share unless they are told otherwise."""
    return ShardCache(default_cache() / "shards", int(gigabytes * 1e9))


@dataclass(frozen=True)
class _Seen:
    """What a URL without a manifest had to give."""

    sha256: str
    bytes: int
    version: str  # as its server calls it, if it does
    seen: float  # when, in seconds since 1970


@dataclass(frozen=True)
class ShardCache:
    """A folder of fetched shards.

    Args:
        folder: made when first needed.
        max_bytes: of all shards in it together.
        retry: with connections that drop.
    """

    folder: Path
    max_bytes: int
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    def open(self, url: str, expected: Expected) -> BinaryIO:
        """A shard, fetched if it is not here, or not as it was.

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
            if self._is_damaged(path):
                file.close()
                self._check_writable()
                path.unlink(missing_ok=True)
                continue
            self._note_use(path.name)
            return file

    def identify(self, url: str) -> Expected:
        """Hash and size of a shard of which no manifest tells.

        It is fetched, unless its server says that it still is the version that was fetched before; of several processes
        that ask at a time one does.

        Raises:
            UserError: it cannot be fetched, or is larger than the whole cache.
        """
        name, asked = hash_of(url), time.time()
        with self.lock(name):
            known = self._known(name)
            if known is None or known.seen < asked:
                known = self._look(url, name, known)
        with self.lock("room"):
            self._evict(self.max_bytes)
        return Expected(known.sha256, known.bytes)

    def lock(self, name: str, wait: bool = True) -> contextlib.AbstractContextManager[object]:
        """One process of the machine at a time; a killed one gives way.

        Raises:
            UserError: the folder is another user's.
        """
        self._check_writable()
        return file_lock(self.folder / "locks" / name, wait)

    def _check_writable(self) -> None:
        """Refuse to change a cache that this user can only read."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not os.access(self.folder, os.W_OK):
            raise UserError(
                f"{self.folder} lacks a shard, and you may not write there; name another folder by shard_cache or "
                f"${CACHE_VARIABLE}, or have whom it belongs to fetch the shard"
            )

    def _look(self, url: str, name: str, known: "_Seen | None") -> "_Seen":
        """Fetch a shard, if it is not the one that is known."""
        found = self._fetch(url, self.folder / (name + _PART), Expected(), known.version if known else "")
        looked = found or known
        assert looked is not None
        seen = _Seen(looked.sha256, looked.bytes, looked.version, time.time())
        write_whole(self._note(name), json.dumps({"url": url, **asdict(seen)}))
        return seen

    def _known(self, name: str) -> "_Seen | None":
        """What was found when a URL was last looked at."""
        try:
            noted = json.loads(self._note(name).read_bytes())
            return _Seen(*(noted[one.name] for one in fields(_Seen)))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _note(self, name: str) -> Path:
        return self.folder / "seen" / f"{name}.json"

    def _fetch(self, url: str, part: Path, expected: Expected, unless: str = "") -> Fetched | None:
        self._reserve(url, part, expected.bytes)
        with removed_on_failure(part, part):
            with part.open("r+b") as out:
                found = fetch(url, out, expected, self.retry, unless)
                os.fsync(out.fileno())
            if found is None:
                part.unlink()
                return None
            self._check_room(url, found.bytes)
            move(part, self.folder / found.sha256)
            keep_sha256(self.folder / found.sha256, found.sha256)
        return found

    def _is_damaged(self, path: Path) -> bool:
        """Whether a shard is not as it was fetched; its hash is taken when it has changed since, and once."""
        try:
            found = file_sha256(path)
        except FileNotFoundError:  # it was pushed out, and is whole for whoever has it open
            return False
        if found != path.name:
            _log.warning("%s was changed since it was fetched (sha256 %s…): fetching it again", path, found[:12])
        return found != path.name

    def _note_use(self, name: str) -> None:
        """Say that a shard is used now, beside it: its own time tells whether it is as it was."""
        used = self.folder / _USED / name
        with contextlib.suppress(OSError):  # another user's cache, that can only be read
            used.parent.mkdir(exist_ok=True)
            used.touch()
            now = time.time_ns()
            os.utime(used, ns=(now, now))  # without these, to the coarse tick of the kernel

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
                (self.folder / _USED / path.name).unlink(missing_ok=True)
                total -= size
        return total <= room

    def _files(self) -> Generator[tuple[int, int, Path]]:
        """When each file was last used, its size and its path."""
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # it has become whole, and has another name now
                found = path.stat()
                if S_ISREG(found.st_mode):
                    yield max(found.st_mtime_ns, self._last_use(path.name)), found.st_size, path

    def _last_use(self, name: str) -> int:
        try:
            return (self.folder / _USED / name).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _is_left_behind(self, part: Path) -> bool:
        """Whether nobody is fetching it any more."""
        try:
            with self.lock(part.name.removesuffix(_PART), wait=False):
                return True
        except BusyError:
            return False
