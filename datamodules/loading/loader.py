"""Samples in order, batch by batch, the same on every machine and exactly resumable.

The order is a `ShardBatchSampler`; where a run stands is two numbers: the epoch and the batches it has had. Lightning
announces each epoch through `ResumableLoader.sampler` as it does to a `DistributedSampler`, and keeps `state_dict` in
its checkpoints: the first rank's, so it says nothing that differs from rank to rank.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
from webdataset.pipeline import DataPipeline

from datamodules.encoding.collate import Collate, SampleEncoder
from datamodules.loading.bad_samples import BadSampleLog
from datamodules.loading.batch_sampler import RankBatches, ShardBatchSampler
from datamodules.loading.mixture import WeightedConcatDataset
from datamodules.loading.pipeline import RefuseBad, ReplaceBad, batch_pipeline, web_loader
from datamodules.loading.transforms import TRANSFORMS, SampleTransform, TransformSample, describe_transforms
from lit_avg.batch import Batch
from lit_avg.utils.errors import UserError


class ResumableLoader:
    """A loader of batches that knows where it stands.

    Args:
        samples: all of them.
        order: which of them come when.
        encoder: makes tokens and tiles of one.
        collate: makes a batch of some.
        workers: processes that read, decode and collate; 0 for none.
        replace: let others stand in for samples that are no good; else that is an error.
        transforms: what decoded samples go through before they are encoded.
        bad_samples: where the samples that were not used are told; by default nowhere, and any number is allowed.
        shown: by name, what makes of a sample what is shown of it.
    """

    def __init__(
        self,
        samples: WeightedConcatDataset,
        order: ShardBatchSampler,
        encoder: SampleEncoder,
        collate: Collate,
        workers: int = 0,
        replace: bool = False,
        transforms: Sequence[SampleTransform] = (),
        bad_samples: BadSampleLog | None = None,
        shown: Mapping[str, str] | None = None,
    ) -> None:
        self.samples = samples
        self.sampler = self.batch_sampler = order  # where Lightning looks for `set_epoch`, and DeepSpeed for the size
        self.encoder, self.collate = encoder, collate
        self.workers, self.replace = workers, replace
        self.transforms = tuple(transforms)
        self.shown = {**(shown or {}), TRANSFORMS: describe_transforms(transforms)}
        self.bad_samples = bad_samples or BadSampleLog(None, 0, 1, len(samples))
        self.epoch, self.yielded = 0, 0
        self.seen = dict.fromkeys(samples.names, 0)
        self._told = self._begun = False

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        """The announced epoch, or the rest of it if `load_state_dict` told this stream to be in its middle.

        Lightning calls this before it announces the epoch; being a generator, it looks only when asked for a batch.

        Raises:
            UserError: too many samples are no good.
        """
        in_the_middle = self._told and self.epoch == self.sampler.epoch
        self._told = False
        if not in_the_middle:
            self.epoch, self.yielded = self.sampler.epoch, 0
        if not self._begun:
            self.bad_samples.start_anew()
        self._begun = True
        order = self.sampler.batches()
        for batch, bad in web_loader(self.pipeline(order.after(self.yielded)), self.workers):
            self.bad_samples.note(bad)
            self._count(order.together(self.yielded))
            self.yielded += 1
            yield cast(Batch, batch)

    def pipeline(self, batches: RankBatches) -> DataPipeline:
        """What makes some batches of this epoch."""
        on_bad = ReplaceBad if self.replace else RefuseBad
        seed, epoch = self.sampler.seed, self.epoch
        transforms = [TransformSample(one, place, seed, epoch) for place, one in enumerate(self.transforms)]
        return batch_pipeline(batches, self.samples, self.encoder, self.collate, on_bad, transforms)

    @property
    def replaced(self) -> int:
        """How many different samples turned out to be no good."""
        return len(self.bad_samples.known)

    @property
    def identity(self) -> dict[str, int | str]:
        """What must be equal for two streams to show the same."""
        return {**self.sampler.identity, "data": self.samples.digest, **self.shown}

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, and what its order follows from."""
        return {"epoch": self.epoch, "yielded": self.yielded, "seen": dict(self.seen), **self.identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            UserError: the order would be another one, so that some samples would be seen twice and others not at all.
        """
        now = {name: value for name, value in self.identity.items() if name in state or name not in self.shown}
        if changed := [
            f"{name} was {state.get(name)} and is {value}" for name, value in now.items() if state.get(name) != value
        ]:
            raise UserError(f"the data cannot go on where the checkpoint stopped: {', '.join(changed)}")
        self.epoch, self.yielded, self._told = state["epoch"], state["yielded"], True
        self.seen = dict(state["seen"])
        self.bad_samples.go_on()
        self._begun = True

    def _count(self, samples: np.ndarray[Any, Any]) -> None:
        """Count what all ranks saw of each source."""
        counts = np.bincount(self.sampler.source_of(samples), minlength=len(self.seen))
        for name, count in zip(self.seen, counts.tolist(), strict=True):
            self.seen[name] += count
