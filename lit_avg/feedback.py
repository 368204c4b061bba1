"""Feedback: what the LMM thinks of each granularity.

p_g = log P(answer | image at granularity g, instruction), the mean over the answer's tokens (paper, section 3.3).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_avg.batch import IGNORED_LABEL, Batch
from lit_avg.llava_next.backbone import AnswerTokens
from lit_avg.model import AvgLlava
from lit_avg.utils.errors import UserError


@dataclass
class Feedback:
    """Q questions at N granularities."""

    log_prob: Tensor  # (Q, N) float32, mean over answer tokens, in nats
    correct: Tensor  # (Q, N) bool: every answer token is the most probable one, so greedy decoding gives the answer


@torch.no_grad()
def lmm_feedback(model: AvgLlava, batch: Batch, levels: Sequence[Tensor]) -> Feedback:
    """Score the answers once per granularity; `levels` is what `model.see` gave.

    Raises:
        UserError: a question has no answer token, so there is nothing to be fed back.
    """
    require_answers(batch)
    scored = [model.answer_tokens_at(batch, levels, level) for level in range(len(levels))]
    questions = len(batch.keys)
    return Feedback(
        torch.stack([mean_log_prob(tokens, questions) for tokens in scored], dim=1),
        torch.stack([_all_correct(tokens, questions) for tokens in scored], dim=1),
    )


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
