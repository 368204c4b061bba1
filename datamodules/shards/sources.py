"""Where shards come from: a folder, a range of tar files, a server, a bucket or a command.

    data/cc595k                                       a folder that `lit-avg shard` made
    https://host/cc595k   s3://bucket/cc595k          the same elsewhere
    data/mix-{000000..000041}.tar                     some of a folder's shards, or tar files of WebDataset's form
    https://host/mix-{000000..000041}.tar             the same elsewhere
    pipe:ssh host cat /data/mix-{000000..000041}.tar  a shell command of your own for each; it writes the tar file

Samples are read in any order, so a shard that lies elsewhere is fetched whole into a cache when first needed. Data is
known by its content, wherever it lies: by the hashes in its manifest, or by those of the tar files. Tar files without a
manifest are gone through once, and what their headers say is kept.

Names of tar files are WebDataset's (`webdataset.shardlists.expand_urls`): `::` stands between several, and `${DATA}`
for what the environment has as `WDS_DATA`. A command's own variables are written without braces.
"""

import io
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from datamodules.shards.cache import ShardCache
from datamodules.shards.download import PIPE, Expected, MissingError, fetch, is_remote
from datamodules.shards.manifest import (
    MANIFEST,
    Manifest,
    Shard,
    check_shards,
    manifest_of,
    parse_manifest,
    read_manifest,
)
from datamodules.shards.tar_index import ShardIndex, read_index
from lit_avg.utils.atomic_io import write_whole
from lit_avg.utils.errors import UserError
from lit_avg.utils.hashing import file_sha256

SHARDS_AT_ONCE = 16
"""Training mixes the samples of so many shards at a time: well mixed, and yet no jumping about in a large data set."""

INDEXES = 2 * SHARDS_AT_ONCE
"""Indexes of shards that each source remembers: of those that are mixed, and of those that come next."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ShardSource:
    """Shards that can be opened, be they here or elsewhere."""

    location: str  # as the user wrote it
    manifest: Manifest
    places: tuple[str, ...]  # path, URL or command of each shard
    cache: ShardCache
    packed: bool  # `lit-avg shard` made them, so that their keys are unique
    identity: dict[str, str]  # what names the data: the manifest's place and hash, or those of each tar file
    indexes: dict[int, ShardIndex] = field(default_factory=dict[int, ShardIndex], repr=False)  # the latest last

    def open(self, number: int) -> BinaryIO:
        """A shard by its number, fetched if it is elsewhere.

        Raises:
            UserError: it cannot be fetched.
        """
        shard = self.manifest.shards[number]
        return _open(self.places[number], self.cache, Expected(shard.sha256, shard.bytes))

    def index(self, number: int) -> ShardIndex:
        """Where the samples of a shard lie.

        Raises:
            UserError: it cannot be read, or holds another number of samples than it should.
        """
        if (index := self.indexes.pop(number, None)) is None:
            index = self._read_index(number)
        self.indexes[number] = index
        if len(self.indexes) > INDEXES:
            del self.indexes[next(iter(self.indexes))]
        return index

    def _read_index(self, number: int) -> ShardIndex:
        shard = self.manifest.shards[number]
        with self.open(number) as file:
            index = read_index(file, self.places[number])
        if len(index) != shard.samples:
            raise UserError(f"shard {self.places[number]} has {len(index)} samples instead of {shard.samples}")
        return index


def check_room(sources: Sequence[ShardSource], at_once: int) -> None:
    """See that the cache holds as many shards as are read at a time; else each would be fetched again and again.

    Args:
        sources: all that are read at a time.
        at_once: shards of each.

    Raises:
        UserError: it does not.
    """
    largest = [sorted(_bytes_elsewhere(source), reverse=True)[:at_once] for source in sources]
    needed, room = sum(map(sum, largest)), min((source.cache.max_bytes for source in sources), default=0)
    if needed > room:
        where = ", ".join(source.location for source, sizes in zip(sources, largest, strict=True) if sizes)
        raise UserError(
            f"the cache holds {room / 1e9:.3g} GB, but {at_once * len(sources)} shards of {where}, which "
            f"are read at a time, have {needed / 1e9:.3g}; raise cache_gb, or pack smaller shards"
        )


def open_source(location: str | Path, cache: ShardCache) -> ShardSource:
    """The shards at a location.

    Args:
        location: see this module's own text.
        cache: where shards from elsewhere are kept.

    Raises:
        UserError: nothing is there, or something else.
    """
    where = str(location)
    if not where.startswith(PIPE) and not where.rstrip(":").endswith(".tar"):
        manifest = _remote_manifest(where) if is_remote(where) else read_manifest(Path(where))
        places = tuple(_beside(where, shard.name) for shard in manifest.shards)
        named_by = {_absolute(_beside(where, MANIFEST)): manifest.digest}
        return ShardSource(where, manifest, places, cache, True, named_by)
    places = expand(where)
    if (twice := next((place for place in places if places.count(place) > 1), None)) is not None:
        raise UserError(f"{where} names {twice} twice; name each shard once, or give it a weight in a list")
    whole = None if where.startswith(PIPE) else _manifest_beside(places)
    if whole is not None:
        part, named_by = whole
        return ShardSource(where, part, places, cache, True, named_by)
    shards = [_described(place, name, cache) for place, name in zip(places, distinct_names(places), strict=True)]
    identity = {_absolute(place): shard.sha256 for place, shard in zip(places, shards, strict=True)}
    return ShardSource(where, manifest_of(shards, {}), places, cache, False, identity)


def may_be_there(location: str) -> bool:
    """Whether it is worth a try to open the shards: none that should be on this machine's disk and are all missing."""
    if is_remote(location):
        return True
    try:
        return any(Path(place).exists() for place in expand(location))
    except UserError:
        return True


def expand(location: str) -> tuple[str, ...]:
    """The tar files that a location names.

    Raises:
        UserError: a brace is not closed, or the environment lacks a variable.
    """
    from webdataset.shardlists import expand_urls  # brings torch along, which planning a study does without

    try:
        places = tuple(expand_urls(location))
    except ValueError as error:
        raise UserError(f"{location}: {error}; write a range as {{000000..000041}}") from error
    except (AssertionError, KeyError) as error:
        absent = re.sub(r".*WDS_(\w+).*", r"\1", str(error))  # a variable's content may name others
        raise UserError(
            f"{location}: ${{{absent}}} stands for what the environment has as WDS_{absent}, as in WebDataset, and it "
            f"has no such variable; set it, or write ${absent} for a variable of a command's own"
        ) from error
    if not all(places):
        raise UserError(f"{location}: `::` stands between the names of tar files, and one of them is empty")
    return places


def distinct_names(places: Sequence[str]) -> list[str]:
    """What keys of samples call tar files: their own names, with as many folders before them as tell them apart."""
    parts = [place.split("/") for place in places]
    for length in range(1, max(map(len, parts))):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(places)


def _beside(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}"


def _absolute(place: str) -> str:
    return place if is_remote(place) else str(Path(place).absolute())


def _remote_manifest(folder: str) -> Manifest:
    content = io.BytesIO()
    url = _beside(folder, MANIFEST)
    fetch(url, content)
    return parse_manifest(content.getvalue(), url)


def _manifest_beside(places: tuple[str, ...]) -> tuple[Manifest, dict[str, str]] | None:
    """What the manifest in the folder of some tar files says of them, its place and hash; None if there is none."""
    folder, *others = {place.rpartition("/")[0] or "." for place in places}
    if others:
        return None
    path = _beside(folder, MANIFEST)
    try:
        whole = _remote_manifest(folder) if is_remote(folder) else parse_manifest(Path(path).read_bytes(), path)
        part = whole.part([place.rpartition("/")[2] for place in places])
    except (FileNotFoundError, MissingError, KeyError):
        return None
    if not is_remote(folder):
        check_shards(Path(path), part.shards)
    return part, {_absolute(path): whole.digest}


def _described(place: str, name: str, cache: ShardCache) -> Shard:
    """A tar file without a manifest: its hash, its size, and its samples, which are counted once for each content."""
    if is_remote(place):
        found = cache.identify(place)
    elif not (path := Path(place)).is_file():
        raise UserError(f"there is no shard {place}; name a folder of shards, or tar files that are there")
    else:
        found = Expected(file_sha256(path), path.stat().st_size)
    return Shard(name, _count(place, found, cache), found.bytes, found.sha256)


def _count(place: str, found: Expected, cache: ShardCache) -> int:
    """Samples of a tar file."""
    kept = cache.folder / "samples" / found.sha256
    if kept.is_file() and (text := kept.read_text(encoding="utf-8")).isdigit():
        return int(text)
    _log.warning("%s has no manifest: going through it once", place)
    with _open(place, cache, found) as file:
        samples = len(read_index(file, place))
    try:
        write_whole(kept, str(samples))
    except OSError as error:
        _log.warning("how many samples %s has cannot be kept: %s", place, error)
    return samples


def _bytes_elsewhere(source: ShardSource) -> list[int]:
    """Sizes of the shards that are fetched."""
    pairs = zip(source.manifest.shards, source.places, strict=True)
    return [shard.bytes for shard, place in pairs if is_remote(place)]


def _open(place: str, cache: ShardCache, expected: Expected) -> BinaryIO:
    return cache.open(place, expected) if is_remote(place) else Path(place).open("rb")
