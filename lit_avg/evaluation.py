"""What validation and test look at: every question at every granularity, in one pass of the vision encoder."""

import torch

from lit_avg.batch import PREFIX, Batch
from lit_avg.feedback import lmm_feedback
from lit_avg.model import AvgLlava
from lit_avg.outcomes import Outcomes
from lit_avg.sequences import visual_token_counts


def try_every_granularity(model: AvgLlava, batch: Batch, routed: bool) -> Outcomes:
    """Score and judge the answers at each level; ask the router for its scores if there is a trained one."""
    levels = model.see(batch)
    feedback = lmm_feedback(model, batch, levels)
    scores = model.route(batch, levels).float().log_softmax(dim=1).cpu() if routed else None
    tiles = torch.tensor([*batch.tiles, 0])[batch.image_of_question.cpu()]
    own_text = batch.question[batch.question >= 0].bincount(minlength=len(batch.keys))
    prefix = (batch.question == PREFIX).sum(dim=1)[batch.row_of_question] - (batch.image_of_question >= 0).long()
    return Outcomes(
        keys=batch.keys,
        kinds=batch.kinds,
        correct=feedback.correct.cpu(),
        feedback=feedback.log_prob.cpu(),
        scores=scores,
        visual_tokens=visual_token_counts(batch, model.layout),
        text_tokens=(own_text + prefix).cpu(),
        tiles=tiles,
    )
