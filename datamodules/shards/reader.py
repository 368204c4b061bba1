"""The samples of a folder of shards (or what `datamodules.shards.sources` knows besides), by their running number.

Any order of reading is as cheap as any other: a shard's index is read from its headers when first needed.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.shards.cache import ShardCache, default_shard_cache
from datamodules.shards.sample import BadSampleError, RawSample, Sample, parse_sample
from datamodules.shards.sources import ShardSource, open_source
from datamodules.shards.tar_index import Unreadable, read_index, read_place
from lit_avg.utils.hashing import hash_of, number_of

NO_KIND = "all"
"""The kind of a question whose record tells none."""


class ShardedSamples:
    """Random access to the samples of shards.

    Args:
        folder: holds the shards and their manifest; or another location, as in `datamodules.shards.sources`,
            opened or not.
        keep: which samples to take, by key; all of them if not given.
        cache: for shards that lie elsewhere.
    """

    def __init__(
        self,
        folder: Path | str | ShardSource,
        keep: Callable[[str], bool] | None = None,
        cache: ShardCache | None = None,
    ) -> None:
        opened = isinstance(folder, ShardSource)
        self.source = folder if opened else open_source(folder, cache or default_shard_cache())
        self.manifest = self.source.manifest
        self.numbers = np.arange(self.manifest.samples, dtype=np.int64)
        if keep is not None:
            kept = [number for number in range(self.manifest.samples) if keep(sample_key(number))]
            self.numbers = np.array(kept, dtype=np.int64)
        self.ends = np.cumsum([shard.samples for shard in self.manifest.shards])

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def chosen(self) -> str:
        """Names which samples are taken; empty if all are."""
        return "" if len(self) == self.manifest.samples else hash_of(self.numbers.tobytes())

    @property
    def shard_of_sample(self) -> NDArray[np.int64]:
        """(samples,) in which shard each sample lies."""
        return np.searchsorted(self.ends, self.numbers, side="right")

    def __getitem__(self, index: int) -> Sample:
        """One sample.

        Raises:
            BadSampleError: the shard holds something else there.
        """
        return parse_members(self.read(index))

    def read(self, index: int) -> RawSample:
        """The files of one sample.

        Raises:
            BadSampleError: one of them is not in the shard.
        """
        number = int(self.numbers[index])
        shard = int(np.searchsorted(self.ends, number, side="right"))
        first = int(self.ends[shard]) - self.manifest.shards[shard].samples
        key, members = self.source.index(shard)[number - first]
        for extension, place in members.items():
            if isinstance(place, Unreadable):
                where = f"sample {key} in {self.source.places[shard]}"
                raise BadSampleError(f"{where}: its .{extension} is {place.reason}")
        with self.source.open(shard) as file:
            parts = {name: read_place(file, place) for name, place in members.items() if isinstance(place, tuple)}
        return {"__key__": self._unique(key, shard), "__url__": self.source.places[shard], **parts}

    def _unique(self, key: str, shard: int) -> str:
        """Tar files that others made may use the same key in each, and may be called alike in several folders."""
        return key if self.source.packed else f"{self.manifest.shards[shard].name}/{key}"


def parse_members(members: RawSample) -> Sample:
    """The sample that some files are.

    Raises:
        BadSampleError: they are none.
    """
    parts = {extension: content for extension, content in members.items() if not extension.startswith("__")}
    if "json" not in parts or len(parts) > 2:
        where = f"sample {members['__key__']} in {members['__url__']}"
        raise BadSampleError(f"{where} has {sorted(parts)}, not .json and at most one image")
    record = parts.pop("json")
    return parse_sample(members["__key__"], record, next(iter(parts.values()), None))


def kinds_in(samples: ShardedSamples) -> set[str]:
    """The kinds of all questions, `all` for those of none; of each sample its record alone is read."""
    kinds, source = set[str](), samples.source
    for shard in range(len(source.places)):
        with source.open(shard) as file:
            for _, members in read_index(file, str(shard)):
                place = members.get("json")
                if place is None or isinstance(place, Unreadable):
                    continue
                with suppress(ValueError, AttributeError, TypeError):  # a record that is none is told when it is asked
                    kinds.update(json.loads(read_place(file, place)).get("kinds") or [NO_KIND])
    return kinds


def sample_key(number: int) -> str:
    """The key of the sample with this running number."""
    return f"{number:09d}"


def held_out(name: str, share: float) -> bool:
    """Whether the sample or image of this name is among the `share` that is not trained on: ever the same ones."""
    return number_of(name) / 2**64 < share
