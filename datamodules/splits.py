"""Which samples the splits of a data module have, and what names them."""

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from datamodules.loading.mixture import WeightedConcatDataset, WeightedShards
from datamodules.shards.cache import ShardCache
from datamodules.shards.reader import ShardedSamples
from datamodules.shards.sources import ShardSource, may_be_there, open_source
from lit_avg.data import SPLITS, ShardsData, Split
from lit_avg.utils.hashing import hash_of

NAMES: dict[Split, str] = {"train": "training", "val": "validation", "test": "test"}
"""What people call them."""


class Splits(ShardsData):
    """The samples of each split; a data module says where their shards are."""

    shard_cache: ShardCache

    def folder(self, split: Split) -> Path | str | None:
        """The location of the shards of a split, None if there is no such split."""
        raise NotImplementedError

    def sources(self, split: Split) -> list[WeightedShards]:
        """The data sets of a split; one from `folder`, if a subclass does not say otherwise."""
        folder = self.folder(split)
        return [] if folder is None else [WeightedShards(str(folder))]

    def keeps(self, split: Split) -> Callable[[str], bool] | None:
        """Which samples of the shards belong to the split, by key; None for all."""
        return None

    def kinds(self, split: Split) -> tuple[str, ...] | None:
        """The kinds of questions that a split asks; None for all."""
        return None

    def why_empty(self, split: Split) -> str:
        """What to tell where a split is asked for, but has no samples."""
        where = ", ".join(source.shards for source in self.sources(split))
        return f"the {NAMES[split]} split has no samples: there are none in {where}, or none of those is wanted"

    def samples(self, split: Split) -> WeightedConcatDataset:
        """All samples of a split, as they lie; none if there is no such split. What was opened is kept."""
        if split not in self._mixtures:
            keeps = self.keeps(split)
            parts = {source.called: ShardedSamples(self._opened(source), keeps) for source in self.sources(split)}
            self._mixtures[split] = WeightedConcatDataset(parts)
        return self._mixtures[split]

    def data_digest(self, split: Split) -> str | None:
        """SHA-256 of which samples a split has, and of what their keys begin with; None if there is no such split."""
        if not (sources := self.sources(split)):
            return None
        parts = self.samples(split).parts
        named = [part.manifest.digest.encode() + part.numbers.tobytes() for part in parts]
        named += [kind.encode() for kind in self.kinds(split) or ()]
        named += [json.dumps([source.called for source in sources]).encode()] if len(sources) > 1 else []
        return hash_of(b"".join(named))

    def identities(self) -> dict[str, str]:
        """What names the data of all splits, place by place: a manifest or tar file, a URL or a command, and its hash.

        What is not there yet on this machine's disk has none, so that runs of it can be planned.

        Raises:
            UserError: what is there is no data.
        """
        identities = dict[str, str]()
        for source in [source for split in SPLITS for source in self.sources(split)]:
            if may_be_there(source.shards):
                identities |= self._opened(source).identity
        return identities

    @property
    def manifest_hash(self) -> str:
        """16 hex digits that name the data of all splits."""
        named = list[str]()
        for split in SPLITS:
            for source in self.sources(split):
                weight = "" if source.weight == 1 else f" x {source.weight:g}"
                named.append(f"{self._opened(source).manifest.digest}{weight}")
        named += [part.chosen for split in SPLITS if self.keeps(split) for part in self.samples(split).parts]
        return hash_of("".join(named), 16)

    def _opened(self, source: WeightedShards) -> ShardSource:
        """The shards of a data set, opened once however many splits and parts are made of them."""
        if source.shards not in self._sources:
            self._sources[source.shards] = open_source(source.shards, self.shard_cache)
        return self._sources[source.shards]

    @cached_property
    def _sources(self) -> dict[str, ShardSource]:
        return {}

    @cached_property
    def _mixtures(self) -> dict[Split, WeightedConcatDataset]:
        return {}
