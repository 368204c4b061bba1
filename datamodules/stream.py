"""Samples in order, batch by batch, the same on every machine and exactly resumable.

The order of an epoch follows from (seed, epoch) alone and is cut into batches beforehand, so it depends neither on the
number of workers nor on their timing, every rank has the same number of batches, and where a run stands is two
numbers: the epoch and the batches it has had. Lightning announces each epoch through `BatchStream.sampler` as it does
to a `DistributedSampler`, and keeps `state_dict` in its checkpoints.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from math import ceil
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from datamodules.collate import EncodedSample
from datamodules.conversation import NoRoomError
from datamodules.shards import ShardedSamples
from lit_avg.batch import Batch
from lit_avg.errors import UserError

SHARDS_AT_ONCE = 16
"""Training mixes the samples of so many shards at a time: well mixed, and yet no jumping about in a large data set."""

_log = logging.getLogger(__name__)


class EncodedSamples(Dataset[EncodedSample]):
    """Samples by index, encoded.

    Args:
        samples: where they come from.
        encode: makes tokens and pixels of one.
        replace: let the next sample stand in for one that has no room for its answer, and say so; else that is an
            error, for no measurement should be one of part of a data set.
    """

    def __init__(self, samples: ShardedSamples, encode: Callable[..., EncodedSample], replace: bool = False) -> None:
        self.samples = samples
        self.encode = encode
        self.replace = replace

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> EncodedSample:
        """Encode one sample.

        Raises:
            NoRoomError: there is no room for its answer, and either nothing may stand in or nothing can.
        """
        for stand_in in range(index, index + len(self)):
            sample = self.samples[stand_in % len(self)]
            try:
                return self.encode(sample)
            except NoRoomError as error:
                if not self.replace:
                    raise
                _log.warning("%s (the sample after it is used instead)", error)
        raise NoRoomError(f"no sample in {self.samples.folder} has room for its answer; raise max_length")


class EpochOrder:
    """The order in which one rank sees the samples, epoch by epoch.

    Args:
        shard_of_sample: (samples,) in which shard each sample lies, ascending.
        batch_size: samples a batch.
        shuffle: a new order each epoch, only whole batches; else the samples as they lie, each at least once.
        seed: decides the order together with the epoch.
        rank: which of the ranks this is.
        ranks: how many take part.

    Raises:
        UserError: there are too few samples for one batch on every rank.
    """

    def __init__(
        self,
        shard_of_sample: NDArray[np.int64],
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.shard_of_sample = shard_of_sample
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rank, self.ranks = rank, ranks
        self.epoch = 0
        if len(shard_of_sample) < (batch_size * ranks if shuffle else 1):
            raise UserError(
                f"{len(shard_of_sample)} samples are too few for a batch of {batch_size} on each of {ranks} ranks; "
                "choose a smaller batch_size"
            )

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch is next (Lightning does)."""
        self.epoch = epoch

    def __len__(self) -> int:
        samples = len(self.shard_of_sample)
        if self.shuffle:
            return samples // (self.batch_size * self.ranks)
        return ceil(ceil(samples / self.ranks) / self.batch_size)

    @property
    def identity(self) -> dict[str, int]:
        """What must be equal for two orders to be equal."""
        samples = len(self.shard_of_sample)
        return {"samples": samples, "batch_size": self.batch_size, "seed": self.seed, "ranks": self.ranks}

    def batches(self) -> list[list[int]]:
        """This rank's batches in this epoch."""
        if self.shuffle:
            order = self._shuffled()[: len(self) * self.batch_size * self.ranks]
        else:  # filled up from the front, so that every rank has equally many; merging outcomes drops the doubles
            samples = len(self.shard_of_sample)
            order = np.arange(ceil(samples / self.ranks) * self.ranks) % samples
        own = order[self.rank :: self.ranks].tolist()
        return [own[begin : begin + self.batch_size] for begin in range(0, len(own), self.batch_size)]

    def _shuffled(self) -> NDArray[np.int64]:
        """Shards in random order, a few at a time, and their samples mixed."""
        generator = np.random.default_rng((self.seed, self.epoch))
        shards = generator.permutation(np.unique(self.shard_of_sample))
        position = np.empty(shards.max() + 1, dtype=np.int64)
        position[shards] = np.arange(len(shards)) // SHARDS_AT_ONCE
        mixed = generator.permutation(len(self.shard_of_sample))
        return mixed[np.argsort(position[self.shard_of_sample[mixed]], kind="stable")]


class BatchStream:
    """A loader of batches that knows where it stands.

    Args:
        samples: encoded samples by index.
        order: which of them come when.
        collate: makes a batch of some.
        workers: processes that read, decode and collate; 0 for none.
    """

    def __init__(
        self,
        samples: EncodedSamples,
        order: EpochOrder,
        collate: Callable[[Sequence[EncodedSample]], Batch],
        workers: int = 0,
    ) -> None:
        self.samples = samples
        self.sampler = self.batch_sampler = order  # where Lightning looks for `set_epoch`, and DeepSpeed for the size
        self.collate = collate
        self.workers = workers
        self.epoch, self.yielded = 0, 0
        self._told = False

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        """The announced epoch, or the rest of it if `load_state_dict` told this stream to be in its middle.

        Lightning calls this before it announces the epoch; being a generator, it looks only when asked for a batch.
        """
        in_the_middle = self._told and self.epoch == self.sampler.epoch
        self._told = False
        if not in_the_middle:
            self.epoch, self.yielded = self.sampler.epoch, 0
        batches = DataLoader(
            self.samples,
            batch_sampler=self.sampler.batches()[self.yielded :],
            collate_fn=cast(Callable[[list[EncodedSample]], Any], self.collate),
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else the loader draws from the model's random numbers at each start
        )
        for batch in batches:
            self.yielded += 1
            yield cast(Batch, batch)

    def state_dict(self) -> dict[str, int]:
        """Where the stream stands, and what its order follows from."""
        return {"epoch": self.epoch, "yielded": self.yielded, **self.sampler.identity}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there.

        Raises:
            UserError: the order would be another one, so that some samples would be seen twice and others not at all.
        """
        now = self.sampler.identity
        if changed := [
            f"{name} was {state[name]} and is {value}" for name, value in now.items() if state[name] != value
        ]:
            raise UserError(f"the data cannot go on where the checkpoint stopped: {', '.join(changed)}")
        self.epoch, self.yielded, self._told = state["epoch"], state["yielded"], True
