"""Which samples the splits of a data module have, and what names them."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from datamodules.manifest import MANIFEST
from datamodules.mixture import Mixture, WeightedShards
from datamodules.shard_cache import ShardCache
from datamodules.shards import ShardedSamples
from datamodules.sources import open_source

Split = Literal["train", "val", "test"]

SPLITS: tuple[Split, ...] = ("train", "val", "test")


class Splits:
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

    def samples(self, split: Split) -> Mixture:
        """All samples of a split, as they lie; none if there is no such split."""
        keeps = self.keeps(split)
        return Mixture(
            {source.called: ShardedSamples(source.shards, keeps, self.shard_cache) for source in self.sources(split)}
        )

    def data_digest(self, split: Split) -> str | None:
        """SHA-256 of which samples a split has; None if there is no such split."""
        if not self.sources(split):
            return None
        parts = self.samples(split).parts
        named = [part.manifest.digest.encode() + part.numbers.tobytes() for part in parts]
        named += [kind.encode() for kind in self.kinds(split) or ()]
        return hashlib.sha256(b"".join(named)).hexdigest()

    def manifests(self) -> list[Path]:
        """The manifests that are on the disk by now; one that draws its data on first use has none before."""
        locations = dict.fromkeys(source.shards for split in SPLITS for source in self.sources(split))
        return [path for location in locations if (path := Path(location) / MANIFEST).is_file()]

    @property
    def manifest_hash(self) -> str:
        """16 hex digits that name the data of all splits."""
        sources = [source for split in SPLITS for source in self.sources(split)]
        names = [open_source(source.shards, self.shard_cache).manifest.digest for source in sources]
        weights = ["" if source.weight == 1 else f" x {source.weight:g}" for source in sources]
        return hashlib.sha256("".join(map(str.__add__, names, weights)).encode()).hexdigest()[:16]
