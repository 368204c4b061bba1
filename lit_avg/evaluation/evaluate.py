"""What validation and test look at, every question at every granularity, and what a prediction is made of."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_avg.batch import PREFIX, Batch
from lit_avg.evaluation.outcomes import Outcomes, Prediction
from lit_avg.feedback.lmm_feedback import Feedback, lmm_feedback
from lit_avg.llava_next.llm_input import visual_token_counts
from lit_avg.model import AvgLlava
from lit_avg.routing.policies import Policy, PolicyInputs, choose_levels
from lit_avg.utils.finite import check_scores


def try_every_granularity(model: AvgLlava, batch: Batch, routed: bool) -> Outcomes:
    """Score and judge the answers at each level; ask the router for its scores if there is a trained one.

    The vision encoder runs once.
    """
    levels = model.encode_levels(batch)
    return outcomes_of(model, batch, levels, lmm_feedback(model, batch, levels), routed)


@torch.no_grad()
def outcomes_of(model: AvgLlava, batch: Batch, levels: Sequence[Tensor], feedback: Feedback, routed: bool) -> Outcomes:
    """What is to be judged, from feedback that is known already; `levels` as `model.encode_levels` gives them."""
    scores = _scores(model, batch, levels) if routed else None
    tiles = torch.tensor([*batch.tiles, 0])[batch.image_of_question.cpu()]
    own_text = batch.question[batch.question >= 0].bincount(minlength=len(batch.keys))
    prefix = (batch.question == PREFIX).sum(dim=1)[batch.row_of_question] - (batch.image_of_question >= 0).long()
    return Outcomes(
        keys=batch.keys,
        kinds=batch.kinds,
        granularities=model.granularities,
        correct=feedback.correct.cpu(),
        feedback=feedback.log_prob.cpu(),
        scores=scores,
        visual_tokens=visual_token_counts(batch, model.layout),
        text_tokens=(own_text + prefix).cpu(),
        tiles=tiles,
        images=batch.image_names,
    )


@torch.no_grad()
def answer_questions(
    model: AvgLlava, batch: Batch, policy: Policy, routed: bool, max_new_tokens: int = 128
) -> list[Prediction]:
    """Answer every question at the granularity that a policy chooses, greedily; known answers are not looked at.

    Raises:
        UserError: the router's scores are not finite, whatever the policy, or the LLM's are not.
    """
    begin = time.perf_counter()
    levels = model.encode_levels(batch)
    scores = _scores(model, batch, levels) if routed else None
    if scores is not None:
        check_scores(batch.keys, scores)
    chosen = choose_levels(policy, PolicyInputs(batch.keys, model.granularities, scores)).tolist()
    answers = model.generate_ids(batch, chosen, max_new_tokens, levels=levels).cpu()
    seconds = (time.perf_counter() - begin) / len(chosen)
    visual_tokens = visual_token_counts(batch, model.layout)
    asked = batch.instruction & (batch.question >= 0)
    return [
        Prediction(
            key=batch.keys[question],
            kind=batch.kinds[question],
            prompt=batch.input_ids[asked & (batch.question == question)].cpu(),
            answer=answers[question],
            reference=batch.answers[question],
            granularity=model.granularities.tokens[level],
            visual_tokens=int(visual_tokens[question, level]),
            probabilities=None if scores is None else scores[question].exp().tolist(),
            seconds=seconds,
        )
        for question, level in enumerate(chosen)
    ]


def _scores(model: AvgLlava, batch: Batch, levels: Sequence[Tensor]) -> Tensor:
    """Router log-probabilities (Q, N), on the CPU."""
    return model.route(batch, levels).float().log_softmax(dim=1).cpu()
