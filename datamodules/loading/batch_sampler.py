"""Which samples come when: the order of an epoch, cut into batches before the first of them is read.

It follows from (seed, epoch) and from how many samples all ranks together take a step, and from nothing else: neither
the number of workers nor their timing nor the number of ranks changes it. A rank takes every `ranks`-th sample of each
step, so all have equally many batches, and what one step sees on 2 x 4 samples it sees on 4 x 2 as well.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from datamodules.loading.length_grouping import Lengths, grouped
from datamodules.shards.sources import SHARDS_AT_ONCE
from lit_avg.utils.errors import UserError


@dataclass(frozen=True)
class Source:
    """One of the data sets that are trained on together, as the order sees it."""

    shard_of_sample: NDArray[np.int64]  # (samples,) in which shard each sample lies, ascending
    weight: float = 1.0  # how often an epoch shows each sample: 2 for twice, 0.5 for half of them in turn


@dataclass(frozen=True)
class RankBatches:
    """The batches of an epoch."""

    order: NDArray[np.int64]  # samples of all ranks, step by step; behind the last come the first again, as repeats
    size: int  # samples a step on all ranks together; the last step may have fewer
    rank: int
    ranks: int

    def __len__(self) -> int:
        return ceil(len(self.order) / self.size)

    def __iter__(self) -> Iterator[list[int]]:
        """This rank's, one by one: a list of them all would weigh several times what the order does."""
        for step in range(len(self)):
            yield self.together(step)[self.rank :: self.ranks].tolist()

    def together(self, step: int) -> NDArray[np.int64]:
        """What all ranks take in one step."""
        return self.order[step * self.size : (step + 1) * self.size]

    def after(self, step: int) -> "RankBatches":
        """Without the first so many."""
        return RankBatches(self.order[step * self.size :], self.size, self.rank, self.ranks)


class ShardBatchSampler:
    """The order in which one rank sees the samples, epoch by epoch.

    Args:
        sources: the data sets; samples are numbered through all of them.
        batch_size: samples a batch.
        shuffle: a new order each epoch, only whole batches; else the samples as they lie, each at least once.
        seed: decides the order together with the epoch.
        rank: which of the ranks this is.
        ranks: how many take part.
        lengths: of the samples; if given, batches are of similar length, with images or without.

    Raises:
        UserError: there are too few samples for one batch on every rank.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        lengths: Lengths | None = None,
    ) -> None:
        self.sources = sources
        self.ends = np.cumsum([len(source.shard_of_sample) for source in sources])
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rank, self.ranks = rank, ranks
        self.lengths = lengths
        self.epoch = 0
        if self.samples < (self.step_size if shuffle else 1):
            raise UserError(
                f"{self.samples} samples are too few for a batch of {batch_size} on each of {ranks} ranks; "
                "choose a smaller batch_size"
            )

    @property
    def step_size(self) -> int:
        """Samples a step on all ranks together."""
        return self.batch_size * self.ranks

    @property
    def samples(self) -> int:
        """Samples that every epoch has at least, those included that do not fill a batch."""
        return sum(floor(self._share(number) + 1e-6) for number in range(len(self.sources)))

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch is next (Lightning does)."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.shuffle:
            return self.samples // self.step_size
        return ceil(ceil(self.samples / self.ranks) / self.batch_size)

    @property
    def identity(self) -> dict[str, int | str]:
        """What must be equal for two orders to be equal."""
        shares = [self._share(number) for number in range(len(self.sources))]
        carried = {"carried over": "yes"} if any(abs(share - round(share)) > 1e-6 for share in shares) else {}
        return {
            **carried,
            "samples": self.samples,
            "weights": " ".join(f"{source.weight:g}" for source in self.sources),
            "samples a step (batch_size x ranks)": self.step_size,
            "seed": self.seed,
            "group_by_length": self.lengths is not None,
        }

    def batches(self) -> RankBatches:
        """This rank's batches in this epoch."""
        if self.shuffle:
            order = self._shuffled()[: len(self) * self.step_size]
        else:  # filled up from the front, so that every rank has equally many
            order = np.arange(ceil(self.samples / self.ranks) * self.ranks)
        return RankBatches(order, self.step_size, self.rank, self.ranks)

    def source_of(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """In which source each of these samples lies."""
        return np.searchsorted(self.ends, samples % self.ends[-1], side="right")

    def _shuffled(self) -> NDArray[np.int64]:
        """The sources, each shuffled, spread evenly over the epoch."""
        orders = [self._shuffled_source(number) for number in range(len(self.sources))]
        places = [(np.arange(len(order)) + 0.5) / max(len(order), 1) for order in orders]
        order = np.concatenate(orders)[np.argsort(np.concatenate(places), kind="stable")]
        if self.lengths is None:
            return order
        return grouped(order, self.lengths, self.step_size, np.random.default_rng((self.seed, self.epoch)))

    def _shuffled_source(self, number: int) -> NDArray[np.int64]:
        """A source's shards in random order, a few at a time, and their samples mixed."""
        shard_of_sample = self.sources[number].shard_of_sample
        generator = np.random.default_rng((self.seed, self.epoch, number))
        shards = generator.permutation(np.unique(shard_of_sample))
        position = np.empty(shards.max(initial=-1) + 1, dtype=np.int64)
        position[shards] = np.arange(len(shards)) // SHARDS_AT_ONCE
        taken = self._taken(number)
        mixed = taken[generator.permutation(len(taken))]
        first = int(self.ends[number]) - len(shard_of_sample)
        return first + mixed[np.argsort(position[shard_of_sample[mixed]], kind="stable")]

    def _share(self, number: int) -> float:
        """How many samples of a source an epoch shows; what is less than one is carried over to the next epochs."""
        source = self.sources[number]
        return source.weight * len(source.shard_of_sample) if self.shuffle else len(source.shard_of_sample)

    def _taken(self, number: int) -> NDArray[np.int64]:
        """Which samples of a source this epoch shows, ascending: it goes on in passes over all where the last ended."""
        samples, share = len(self.sources[number].shard_of_sample), self._share(number)
        places = np.arange(round(self.epoch * share), round((self.epoch + 1) * share))
        quota = len(places)
        taken = np.empty(quota, dtype=np.int64)
        for turn in np.unique(places // max(samples, 1)):
            within = places // samples == turn
            taken[within] = np.random.default_rng((self.seed, number, turn, 1)).permutation(samples)[
                places[within] % samples
            ]
        return np.sort(taken)
