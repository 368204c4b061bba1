"""Feedback to a store and back: computing the samples of a stretch, and what a stage that trains from a store reads."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule, Trainer

from lit_avg.batch import IGNORED_LABEL, Batch
from lit_avg.data import ShardsData, Split, no_samples
from lit_avg.feedback.fingerprint import check_identity, identity_of
from lit_avg.feedback.lmm_feedback import encode_levels_of, feedback_of
from lit_avg.feedback.part_files import StoredFeedback
from lit_avg.feedback.store import FeedbackReader, FeedbackStore, check_data
from lit_avg.llava_next.llm_input import visual_token_counts
from lit_avg.model import AvgLlava
from lit_avg.utils.finite import check_feedback


def shards_of(data: LightningDataModule | None) -> ShardsData:
    """The data module, if feedback can be computed on it.

    Raises:
        UserError: it cannot.
    """
    if not isinstance(data, ShardsData):
        raise no_samples(data)
    return data


def open_readers(
    model: AvgLlava, base: Mapping[str, str], folder: Path, trainer: Trainer, per_sample: bool
) -> dict[str, FeedbackReader]:
    """What a fit reads of a store: of the training split, and of the validation split unless it does not validate.

    Args:
        model: whose router is trained.
        base: as in `identity_of`.
        folder: of the store.
        trainer: has the data.
        per_sample: as in `RGLF`.

    Raises:
        UserError: the store is of another model or of other data, not complete, or damaged.
    """
    data = shards_of(trainer.datamodule)  # pyright: ignore[reportAttributeAccessIssue]  Lightning sets it, untyped
    store = FeedbackStore(folder)
    check_identity(store.identity, identity_of(model, base, data, str(trainer.precision), per_sample), str(folder))
    validates = trainer.limit_val_batches != 0 and data.data_digest("val") is not None
    readers = dict[str, FeedbackReader]()
    splits: tuple[Split, ...] = ("train", "val") if validates else ("train",)
    for split in splits:
        stored = store.read(split)
        check_data(store, split, data.data_digest(split))
        readers[split] = FeedbackReader(stored, store.granularities, model.granularities.tokens)
    return readers


def compute_feedback(
    model: AvgLlava, data: ShardsData, split: Split, device: torch.device, per_sample: bool, said: Callable[[int], None]
) -> Callable[[int, int], StoredFeedback]:
    """What computes a part of a store, for `FeedbackStore.fill`.

    Args:
        model: on the device, in evaluation mode.
        data: gives the samples.
        split: of the data.
        device: to compute on.
        per_sample: sample by sample, as in `RGLF`.
        said: is told of every batch how many questions it had.
    """

    def compute(begin: int, end: int) -> StoredFeedback:
        parts = [_nothing(len(model.granularities))]
        for batch in data.sequential_batches(split, begin, end):
            parts.append(_stored(model, data.on_after_batch_transfer(batch.to(device), 0), per_sample))
            said(len(batch.keys))
        return StoredFeedback.merge(parts)

    return compute


@torch.no_grad()
def _stored(model: AvgLlava, batch: Batch, per_sample: bool) -> StoredFeedback:
    feedback = feedback_of(model, batch, encode_levels_of(model, batch, per_sample), per_sample)
    check_feedback(batch.keys, feedback.log_prob)
    questions = len(batch.keys)
    answered = batch.question[batch.labels != IGNORED_LABEL].bincount(minlength=questions)
    return StoredFeedback(
        keys=batch.keys,
        kinds=batch.kinds,
        sources=batch.sources or [""] * questions,
        log_prob=feedback.log_prob.float().cpu(),
        correct=feedback.correct.cpu(),
        answer_tokens=answered.to(torch.int32).cpu(),
        visual_tokens=visual_token_counts(batch, model.layout).to(torch.int32),
    )


def _nothing(levels: int) -> StoredFeedback:
    """A stretch without a sample that can be learned from."""
    return StoredFeedback(
        [],
        [],
        [],
        log_prob=torch.zeros(0, levels),
        correct=torch.zeros(0, levels, dtype=torch.bool),
        answer_tokens=torch.zeros(0, dtype=torch.int32),
        visual_tokens=torch.zeros(0, levels, dtype=torch.int32),
    )
