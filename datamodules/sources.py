"""Where shards come from: a folder, a range of tar files, a server, a bucket or a command.

    data/cc595k                                       a folder that `lit-avg shard` made
    https://host/cc595k   s3://bucket/cc595k          the same elsewhere
    data/mix-{000000..000041}.tar                     some of a folder's shards, or tar files of WebDataset's form
    https://host/mix-{000000..000041}.tar             the same elsewhere
    pipe:ssh host cat /data/mix-{000000..000041}.tar  a shell command of your own for each; it writes the tar file

Samples are read in any order, so a shard that lies elsewhere is fetched whole into a cache when first needed. Tar files
without a manifest are gone through once, and what their headers say is kept; WebDataset's `::` is not known.
"""

import hashlib
import io
import json
import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from braceexpand import braceexpand

from datamodules.fetching import PIPE, Expected, MissingError, fetch, is_remote
from datamodules.manifest import MANIFEST, Manifest, Shard, check_length, manifest_of, parse_manifest, read_manifest
from datamodules.shard_cache import ShardCache
from datamodules.shard_index import ShardIndex, read_index
from lit_avg.errors import UserError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)  # equal to itself alone, so that its indexes can be remembered
class ShardSource:
    """Shards that can be opened, be they here or elsewhere."""

    location: str  # as the user wrote it
    manifest: Manifest
    places: tuple[str, ...]  # path, URL or command of each shard
    cache: ShardCache
    packed: bool  # `lit-avg shard` made them, so that their keys are unique

    def open(self, number: int) -> BinaryIO:
        """A shard by its number, fetched if it is elsewhere.

        Raises:
            UserError: it cannot be fetched.
        """
        shard = self.manifest.shards[number]
        return _open(self.places[number], self.cache, Expected(shard.sha256, shard.bytes))

    def check_room(self, at_once: int) -> None:
        """See that the cache holds as many shards as are read at a time; else each would be fetched again and again.

        Raises:
            UserError: it does not.
        """
        elsewhere = [shard.bytes for shard, at in zip(self.manifest.shards, self.places, strict=True) if is_remote(at)]
        needed = sum(sorted(elsewhere, reverse=True)[:at_once])
        if needed > self.cache.max_bytes:
            raise UserError(
                f"the cache holds {self.cache.max_bytes / 1e9:.3g} GB, but {at_once} shards of {self.location}, which "
                f"are read at a time, have {needed / 1e9:.3g}; raise cache_gb, or pack smaller shards"
            )


@lru_cache(maxsize=64)
def index_of(source: ShardSource, number: int) -> ShardIndex:
    """Where the samples of a shard lie.

    Raises:
        UserError: it cannot be read, or holds another number of samples than it should.
    """
    shard = source.manifest.shards[number]
    with source.open(number) as file:
        index = read_index(file, source.places[number])
    if len(index) != shard.samples:
        raise UserError(f"shard {source.places[number]} has {len(index)} samples instead of {shard.samples}")
    return index


def open_source(location: str | Path, cache: ShardCache) -> ShardSource:
    """The shards at a location.

    Args:
        location: see this module's own text.
        cache: where shards from elsewhere are kept.

    Raises:
        UserError: nothing is there, or something else.
    """
    where = str(location)
    if not where.startswith(PIPE) and not where.endswith(".tar"):
        manifest = _remote_manifest(where) if is_remote(where) else read_manifest(Path(where))
        places = tuple(_beside(where, shard.name) for shard in manifest.shards)
        return ShardSource(where, manifest, places, cache, packed=True)
    try:
        places = tuple(braceexpand(where))
    except ValueError as error:
        raise UserError(f"{where}: {error}; write a range as {{000000..000041}}") from error
    whole = None if where.startswith(PIPE) else _manifest_beside(places)
    if whole is not None:
        return ShardSource(where, whole, places, cache, packed=True)
    shards = [_described(place, cache) for place in places]
    return ShardSource(where, manifest_of(shards, {}), places, cache, packed=False)


def _beside(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}"


def _remote_manifest(folder: str) -> Manifest:
    content = io.BytesIO()
    url = _beside(folder, MANIFEST)
    fetch(url, content)
    return parse_manifest(content.getvalue(), url)


def _manifest_beside(places: tuple[str, ...]) -> Manifest | None:
    """What the manifest in the folder of some tar files says of them; None if there is none."""
    folder, *others = {place.rpartition("/")[0] or "." for place in places}
    if others:
        return None
    try:
        if is_remote(folder):
            whole = _remote_manifest(folder)
        else:
            whole = parse_manifest((Path(folder) / MANIFEST).read_bytes(), _beside(folder, MANIFEST))
        part = whole.part([place.rpartition("/")[2] for place in places])
    except (FileNotFoundError, MissingError, KeyError):
        return None
    if not is_remote(folder):
        for place, shard in zip(places, part.shards, strict=True):
            check_length(Path(place), shard.bytes)
    return part


def _described(place: str, cache: ShardCache) -> Shard:
    """What is kept of a tar file without a manifest: its samples, its size, and its hash if it was fetched."""
    version = "" if is_remote(place) else _version(Path(place))
    name = hashlib.sha256(f"{place}{version}".encode()).hexdigest()
    kept = cache.folder / "described" / f"{name}.json"
    with cache.lock(kept.name):
        if not kept.is_file():
            _log.warning("%s has no manifest: going through it once", place)
            found = cache.describe(place) if is_remote(place) else Expected(bytes=Path(place).stat().st_size)
            with _open(place, cache, found) as file:
                samples = len(read_index(file, place))
            kept.parent.mkdir(exist_ok=True)
            part = kept.with_suffix(".part")
            part.write_text(json.dumps({"samples": samples, **vars(found)}), encoding="utf-8")
            part.replace(kept)
    return Shard(name=place.rpartition("/")[2], **json.loads(kept.read_text(encoding="utf-8")))


def _version(path: Path) -> str:
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise UserError(f"there is no shard {path}; name a folder of shards, or tar files that are there") from error
    return f" {found.st_size} {found.st_mtime_ns}"


def _open(place: str, cache: ShardCache, expected: Expected) -> BinaryIO:
    return cache.open(place, expected) if is_remote(place) else Path(place).open("rb")
