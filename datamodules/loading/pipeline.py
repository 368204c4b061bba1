"""A sample's way from its place in the order to a batch, as a `webdataset.DataPipeline` of named stages.

    EpochBatches | ReadMembers | ParseMembers | DecodeImage | EncodeSample | ReplaceBad | CollateBatches

Behind `DecodeImage` come the transforms of one's own, see `datamodules.loading.transforms`. Between the stages an item
is a sample's index and what has been made of it. Every stage gives one item for each that it gets, in their order, so
the batches are those of the order however many workers there are: PyTorch asks the workers of an iterable data set in
turn, and of W workers the k-th has every W-th batch from the k-th on. All stages can be pickled, for workers that are
not forked.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import islice
from typing import Any, cast

import torch
from torch.utils.data import get_worker_info
from webdataset.compat import WebLoader
from webdataset.pipeline import DataPipeline
from webdataset.utils import PipelineStage, identity

from datamodules.encoding.collate import Collate, DecodedSample, EncodedSample, SampleEncoder, decode_sample
from datamodules.loading.bad_samples import BadSample
from datamodules.loading.batch_sampler import RankBatches
from datamodules.loading.mixture import WeightedConcatDataset
from datamodules.shards.reader import parse_members
from datamodules.shards.sample import BadSampleError, RawSample, Sample
from lit_avg.batch import Batch
from lit_avg.utils.errors import UserError
from lit_avg.utils.process_pool import end_with_parent

_log = logging.getLogger(__name__)

Item = tuple[int, Any]
"""Index of a sample, and what has been made of it so far: a `BadSampleError` if it is no good."""

Loaded = tuple[EncodedSample | None, list[BadSample]]
"""A sample, or None in the place of one that is left out; and those that it stands in for."""


@dataclass(frozen=True)
class EpochBatches(PipelineStage):
    """The source: indexes of samples, batch behind batch, in each worker those of its own batches."""

    batches: RankBatches

    def run(self) -> Iterator[Item]:
        """Each index twice, as the item and as what is to be read; behind the last sample come the first again."""
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for batch in islice(self.batches, number, None, workers):
            yield from zip(batch, batch, strict=True)


class SampleStage(PipelineStage, ABC):
    """A stage that makes something of each sample; one that is no good passes it by."""

    @abstractmethod
    def make(self, given: Any) -> Any:
        """What becomes of one sample.

        Raises:
            BadSampleError: it is no good.
        """

    def run(self, items: Iterable[Item]) -> Iterator[Item]:
        """Every sample, or the error that says why it is no good."""
        for index, given in items:
            yield index, self.attempt(given)

    def attempt(self, given: Any) -> Any:
        """`make`, with the error as its result."""
        if isinstance(given, BadSampleError):
            return given
        try:
            return self.make(given)
        except BadSampleError as error:
            return error


@dataclass(frozen=True)
class ReadMembers(SampleStage):
    """A sample's files."""

    samples: WeightedConcatDataset

    def make(self, given: int) -> RawSample:
        """From its shard."""
        return self.samples.read(given % len(self.samples))


class ParseMembers(SampleStage):
    """Its conversation, and the image's file."""

    def make(self, given: RawSample) -> Sample:
        """From its files."""
        return parse_members(given)


class DecodeImage(SampleStage):
    """Its conversation, and the image's pixels."""

    def make(self, given: Sample) -> DecodedSample:
        """From the image's file."""
        return decode_sample(given)


@dataclass(frozen=True)
class EncodeSample(SampleStage):
    """Tokens and tiles."""

    encoder: SampleEncoder

    def make(self, given: DecodedSample) -> EncodedSample:
        """From conversation and pixels."""
        return self.encoder.encode(given)


@dataclass(frozen=True)
class BadSampleStage(PipelineStage, ABC):
    """What is done about samples that are no good.

    Args:
        samples: all of them.
        stages: how a sample was made, from its index on.
    """

    samples: WeightedConcatDataset
    stages: tuple[SampleStage, ...]

    @abstractmethod
    def settle(self, index: int, made: EncodedSample | BadSampleError) -> Loaded:
        """What comes in the place of a sample: itself, if it is good."""

    def run(self, items: Iterable[Item]) -> Iterator[Loaded]:
        """Good samples alone, and what is shown a second time marked as such."""
        for number, made in items:
            sample, bad = self.settle(number % len(self.samples), made)
            if sample is not None and number >= len(self.samples):
                sample = replace(sample, repeated=True)
            yield sample, bad


class RefuseBad(BadSampleStage):
    """A bad sample is an error, for no measurement should be one of part of a data set."""

    def settle(self, index: int, made: EncodedSample | BadSampleError) -> Loaded:
        """The sample itself.

        Raises:
            BadSampleError: it is no good.
        """
        if isinstance(made, BadSampleError):
            raise made
        return made, []


class LeaveOutBad(BadSampleStage):
    """A bad sample is told of and left out."""

    def settle(self, index: int, made: EncodedSample | BadSampleError) -> Loaded:
        """None for one that is no good."""
        if isinstance(made, BadSampleError):
            _log.warning("%s (it is left out)", made)
            return None, []
        return made, []


class ReplaceBad(BadSampleStage):
    """Those that follow a bad sample in its own data set stand in for it."""

    def settle(self, index: int, made: EncodedSample | BadSampleError) -> Loaded:
        """The first that is good.

        Raises:
            UserError: none is.
        """
        reasons: dict[int, str] = {}
        for candidate in self.samples.stand_ins(index):
            if reasons:
                made = reduce(lambda given, stage: stage.attempt(given), self.stages, cast(Any, candidate))
            if not isinstance(made, BadSampleError):
                name = self.samples.names[self.samples.place_of(index)[0]]
                return made, [BadSample(name, bad, reason, candidate) for bad, reason in reasons.items()]
            reasons[candidate] = str(made)
        raise UserError(f"{len(reasons)} samples in a row are no good; the first: {reasons[index]}")


@dataclass(frozen=True)
class CollateBatches(PipelineStage):
    """Batches, each with the bad samples that others stand in for; None for one of which all are left out."""

    size: int
    collate: Collate

    def run(self, loaded: Iterable[Loaded]) -> Iterator[tuple[Batch | None, list[BadSample]]]:
        """As soon as each is full."""
        samples = iter(loaded)
        while several := list(islice(samples, self.size)):
            good = [sample for sample, _ in several if sample is not None]
            yield self.collate(good) if good else None, [bad for _, those in several for bad in those]


def batch_pipeline(
    batches: RankBatches,
    samples: WeightedConcatDataset,
    encoder: SampleEncoder,
    collate: Collate,
    on_bad: type[BadSampleStage],
    transforms: Sequence[SampleStage] = (),
) -> DataPipeline:
    """The whole way.

    Args:
        batches: which samples.
        samples: all of them.
        encoder: makes tokens and tiles of one.
        collate: makes a batch of some.
        on_bad: what is done about samples that are no good.
        transforms: what decoded samples go through before they are encoded.
    """
    stages = (ReadMembers(samples), ParseMembers(), DecodeImage(), *transforms, EncodeSample(encoder))
    size = batches.size // batches.ranks
    return DataPipeline(EpochBatches(batches), *stages, on_bad(samples, stages), CollateBatches(size, collate))


def _begin_worker(number: int) -> None:
    end_with_parent()  # torch's own watch is for parents that are no fork server's clients


def web_loader(pipeline: DataPipeline, workers: int) -> Iterator[tuple[Batch | None, list[BadSample]]]:
    """What a pipeline gives, in its order.

    Args:
        pipeline: as `batch_pipeline` makes it.
        workers: processes that run it; 0 for this one.
    """
    loader = WebLoader(
        pipeline,
        batch_size=None,
        collate_fn=identity,
        num_workers=workers,
        worker_init_fn=_begin_worker,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else the loader draws from the model's random numbers at each start
    )
    return iter(loader)
