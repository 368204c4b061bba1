"""Samples as they lie, each once: for what is computed once and kept, such as feedback."""

from collections.abc import Iterator

import numpy as np

from datamodules.encoding.collate import Collate, SampleEncoder
from datamodules.loading.batch_sampler import RankBatches
from datamodules.loading.mixture import WeightedConcatDataset
from datamodules.loading.pipeline import LeaveOutBad, batch_pipeline, web_loader
from lit_avg.batch import Batch


def sequential_batches(
    samples: WeightedConcatDataset,
    encoder: SampleEncoder,
    collate: Collate,
    ends: tuple[int, int],
    batch_size: int,
    workers: int = 0,
) -> Iterator[Batch]:
    """Batches of the samples from `ends[0]` to before `ends[1]`; those that are no good are left out."""
    batches = RankBatches(np.arange(*ends), batch_size, rank=0, ranks=1)
    for batch, _ in web_loader(batch_pipeline(batches, samples, encoder, collate, LeaveOutBad), workers):
        if batch is not None:
            yield batch
