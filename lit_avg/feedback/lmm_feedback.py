"""Feedback: what the LMM thinks of each granularity.

p_g = log P(answer | image at granularity g, instruction), the mean over the answer's tokens (paper, section 3.3).

It may be computed one sample at a time, so that no number depends on which others happened to be in the batch. A matrix
product of many rows need not give each row the bits that it has by itself: kernels are chosen by shape. Who wants what
is computed once (see `lit_avg.feedback.store`) to be bit by bit what is computed live has both computed so. It costs
time; whole batches differ by rounding, if at all. Rows about one image make a sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lit_avg.batch import IGNORED_LABEL, PADDING, Batch
from lit_avg.llava_next.backbone import AnswerTokens
from lit_avg.model import AvgLlava
from lit_avg.utils.distributed import is_sharded
from lit_avg.utils.errors import UserError


@dataclass
class Feedback:
    """Q questions at N granularities."""

    log_prob: Tensor  # (Q, N) float32, mean over answer tokens, in nats
    correct: Tensor  # (Q, N) bool: every answer token is the most probable one, so greedy decoding gives the answer


@torch.no_grad()
def lmm_feedback(model: AvgLlava, batch: Batch, levels: Sequence[Tensor]) -> Feedback:
    """Score the answers once per granularity; `levels` is what `model.encode_levels` gave.

    Without any image there is nothing in which granularities could differ, and answers are scored once in all.

    Raises:
        UserError: a question has no answer token, so there is nothing to be fed back.
    """
    require_answers(batch)
    differing = range(len(levels)) if levels_differ(model, batch) else range(1)
    scored = [model.answer_tokens_at(batch, levels, level) for level in differing] * (len(levels) // len(differing))
    questions = len(batch.keys)
    return Feedback(
        torch.stack([mean_log_prob(tokens, questions) for tokens in scored], dim=1),
        torch.stack([_all_correct(tokens, questions) for tokens in scored], dim=1),
    )


def levels_differ(model: AvgLlava, batch: Batch) -> bool:
    """Whether each level has to be computed by itself.

    Where weights are sharded it has, images or none: each rank has to call every module as often as the others.
    """
    return bool(batch.tile_grids) or is_sharded(model)


def mean_log_prob(tokens: AnswerTokens, questions: int) -> Tensor:
    """(Q,) mean log-prob of each question's answer tokens."""
    totals = tokens.log_prob.new_zeros(questions).index_add(0, tokens.question, tokens.log_prob)
    return totals / tokens.question.bincount(minlength=questions)


def require_answers(batch: Batch) -> None:
    """Refuse questions that teach nothing, which would otherwise train on a loss of 0 or NaN.

    Raises:
        UserError: names the questions of the batch that have no answer token.
    """
    answered = batch.question[batch.labels != IGNORED_LABEL].unique()
    if len(answered) == len(batch.keys):
        return
    silent = sorted(set(range(len(batch.keys))) - set(answered.tolist()))
    names = ", ".join(batch.keys[question] for question in silent[:5])
    raise UserError(
        f"no answer token to learn from in: {names}; check that the template marks the answers, "
        "and that they are not cut off at the maximum length"
    )


def _all_correct(tokens: AnswerTokens, questions: int) -> Tensor:
    wrong = torch.zeros(questions, dtype=torch.long, device=tokens.correct.device)
    return wrong.index_add(0, tokens.question, (~tokens.correct).long()) == 0


@dataclass(frozen=True)
class SingleSample:
    """One sample of a batch as a batch of its own."""

    batch: Batch
    questions: list[int]  # which of the whole batch's questions these are
    tiles: slice  # which of the whole batch's tiles are its own


def split_by_sample(batch: Batch) -> list[SingleSample]:
    """The samples of a batch, in the order of their first rows."""
    rows_of = dict[int, list[int]]()
    questions_of_row: list[list[int]] = [[] for _ in batch.input_ids]
    for question, row in enumerate(batch.row_of_question.tolist()):
        questions_of_row[row].append(question)
    for row, image in enumerate(batch.image_of_row.tolist()):
        rows_of.setdefault(image if image >= 0 else -1 - row, []).append(row)  # without an image, a row shares nothing
    return [
        _alone(batch, rows, [question for row in rows for question in questions_of_row[row]])
        for rows in rows_of.values()
    ]


def encode_levels_of(model: AvgLlava, batch: Batch, per_sample: bool) -> list[Tensor]:
    """`AvgLlava.see`, sample by sample or all at once."""
    return encode_levels_per_sample(model, batch) if per_sample else model.encode_levels(batch)


def feedback_of(model: AvgLlava, batch: Batch, levels: list[Tensor], per_sample: bool) -> Feedback:
    """`lmm_feedback` on what `seen` gave, sample by sample or all at once."""
    return (lmm_feedback_per_sample if per_sample else lmm_feedback)(model, batch, levels)


def encode_levels_per_sample(model: AvgLlava, batch: Batch) -> list[Tensor]:
    """As `AvgLlava.see`, a sample at a time."""
    seen = [model.encode_levels(sample.batch) for sample in split_by_sample(batch)]
    return [torch.cat(level) for level in zip(*seen, strict=True)]


def lmm_feedback_per_sample(model: AvgLlava, batch: Batch, levels: list[Tensor]) -> Feedback:
    """As `lmm_feedback`, a sample at a time; `levels` is what `encode_levels_per_sample` gave."""
    samples = split_by_sample(batch)
    parts = [lmm_feedback(model, sample.batch, [level[sample.tiles].clone() for level in levels]) for sample in samples]
    questions = torch.tensor([question for sample in samples for question in sample.questions])
    place = questions.argsort().to(parts[0].log_prob.device)
    return Feedback(
        torch.cat([part.log_prob for part in parts])[place], torch.cat([part.correct for part in parts])[place]
    )


def _alone(batch: Batch, rows: list[int], questions: list[int]) -> SingleSample:
    """Some rows with all that belongs to them, padded no further than they need."""
    image = int(batch.image_of_row[rows[0]])
    images = slice(image, image + 1) if image >= 0 else slice(0, 0)
    begin, count = (sum(batch.tiles[:image]), batch.tiles[image]) if image >= 0 else (0, 0)
    chosen = torch.tensor(rows, device=batch.question.device)
    question = batch.question[chosen]
    length = int((question != PADDING).sum(dim=1).max())
    new_number = torch.zeros(len(batch.keys), dtype=torch.long, device=question.device)
    new_number[torch.tensor(questions, device=question.device)] = torch.arange(len(questions), device=question.device)
    renumbered = torch.where(question >= 0, new_number[question.clamp(min=0)], question)
    alone = replace(
        batch,
        input_ids=batch.input_ids[chosen, :length],
        labels=batch.labels[chosen, :length],
        question=renumbered[:, :length],
        instruction=batch.instruction[chosen, :length],
        image_of_row=batch.image_of_row[chosen].clamp(max=0),
        pixel_values=batch.pixel_values[begin : begin + count].clone(),  # kernels may ask where a tensor begins
        tile_grids=batch.tile_grids[images],
        image_sizes=batch.image_sizes[images],
        image_hashes=batch.image_hashes[images],
        keys=[batch.keys[number] for number in questions],
        kinds=[batch.kinds[number] for number in questions],
        answers=[batch.answers[number] for number in questions],
        sources=[batch.sources[number] for number in questions] if batch.sources else [],
    )
    return SingleSample(alone, questions, slice(begin, begin + count))
