"""A stretch of a data set as it lies, each sample once: for what is computed once and kept, such as feedback."""

import logging
from collections.abc import Iterator, Sequence

from torch.utils.data import DataLoader, Dataset

from datamodules.encoding.collate import Collate, EncodedSample, SampleEncoder
from datamodules.loading.mixture import WeightedConcatDataset
from datamodules.shards.sample import BadSampleError
from lit_avg.batch import Batch

_log = logging.getLogger(__name__)


def stretch(
    samples: WeightedConcatDataset,
    encode: SampleEncoder,
    collate: Collate,
    ends: tuple[int, int],
    batch_size: int,
    workers: int = 0,
) -> Iterator[Batch]:
    """Batches of the samples from `ends[0]` to before `ends[1]`; those that are no good are left out."""
    dataset = GoodSamples(samples, encode, *ends)
    for encoded in DataLoader(dataset, batch_size, num_workers=workers, collate_fn=_as_they_are):
        if good := [one for one in encoded if one is not None]:
            yield collate(good)


class GoodSamples(Dataset[EncodedSample | None]):
    """Encoded samples by index, None for one that is no good.

    Args:
        samples: where they come from.
        encode: makes tokens and pixels of one.
        begin: the first sample.
        end: the one behind the last.
    """

    def __init__(self, samples: WeightedConcatDataset, encode: SampleEncoder, begin: int, end: int) -> None:
        self.samples, self.encode = samples, encode
        self.begin, self.end = begin, end

    def __len__(self) -> int:
        return self.end - self.begin

    def __getitem__(self, index: int) -> EncodedSample | None:
        try:
            return self.encode(self.samples[self.begin + index])
        except BadSampleError as error:
            _log.warning("%s (it is left out)", error)
            return None


def _as_they_are(encoded: Sequence[EncodedSample | None]) -> Sequence[EncodedSample | None]:
    return encoded
