"""Several data sets as one: samples are numbered through all of them, and which come how often is the order's business.

train:
  - {shards: data/captions}
  - {shards: data/charts, weight: 2}    # each epoch shows every chart twice
  - {shards: data/chat, weight: 0.5}    # and one half of the conversations, in the next epoch the other
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from datamodules.loading.batch_sampler import Source
from datamodules.shards.reader import ShardedSamples
from datamodules.shards.sample import RawSample
from lit_avg.utils.errors import UserError
from lit_avg.utils.hashing import hash_of

STAND_INS = 20
"""So many samples in a row that are no good are no accident."""


@dataclass(frozen=True)
class WeightedShards:
    """One data set of a mixture.

    Args:
        shards: folder with its shards.
        weight: how often an epoch shows each of its samples; 0.5 shows one half in one epoch, the other in the next.
        name: what logs call it and what its samples' keys begin with; the folder's name if not given.
    """

    shards: str
    weight: float = 1.0
    name: str | None = None

    @property
    def called(self) -> str:
        """Its name."""
        return self.name or self.shards.rstrip("/").rpartition("/")[2]


class WeightedConcatDataset:
    """The samples of several data sets behind one another.

    Args:
        parts: data sets by name.
    """

    def __init__(self, parts: Mapping[str, ShardedSamples]) -> None:
        self.names = list(parts)
        self.parts = list(parts.values())
        self.ends = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    @property
    def digest(self) -> str:
        """16 hex digits that name the data: what is in it, what of that is taken, and what keys begin with."""
        named = [part.manifest.digest for part in self.parts]
        named += [part.chosen for part in self.parts if part.chosen]
        named += [json.dumps(self.names)] if len(self.names) > 1 else []
        return hash_of("".join(named), 16)

    def place_of(self, index: int) -> tuple[int, int]:
        """Which data set a sample is of, and which of its samples it is."""
        source = int(np.searchsorted(self.ends, index, side="right"))
        return source, index - int(self.ends[source]) + len(self.parts[source])

    def read(self, index: int) -> RawSample:
        """The files of one sample; where there are several data sets, its key begins with the name of its own."""
        source, within = self.place_of(index)
        members = self.parts[source].read(within)
        named = members["__key__"] if len(self.parts) == 1 else f"{self.names[source]}/{members['__key__']}"
        return {**members, "__key__": named}

    def stand_ins(self, index: int) -> Iterator[int]:
        """A sample, and those that may stand in for it one after the other: what follows it in its own data set."""
        source, within = self.place_of(index)
        first, samples = index - within, len(self.parts[source])
        yield from (first + (within + step) % samples for step in range(min(STAND_INS + 1, samples)))

    def sources(self, weights: Sequence[float]) -> list[Source]:
        """What the order has to know."""
        return [Source(part.shard_of_sample, weight) for part, weight in zip(self.parts, weights, strict=True)]


def check_mixture(sources: Sequence[WeightedShards]) -> None:
    """See that every data set has a weight and a name of its own.

    Raises:
        UserError: one has not, or there is none.
    """
    names = [source.called for source in sources]
    if not names:
        raise UserError("train: the list of data sets is empty; name at least one folder of shards")
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"train: several data sets are called {doubled[0]}; give each a `name` of its own")
    for source in sources:
        weight = cast(float | None, source.weight)  # the parser lets a null pass
        if weight is None or not 0 < weight < float("inf"):
            raise UserError(f"train: the weight of {source.called} is {source.weight}, but must be above 0")
