"""Stage 4: Ranking Granularity to align LMM Feedback (paper, section 3.3)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lit_avg.batch import Batch
from lit_avg.feedback import lmm_feedback
from lit_avg.losses import best_granularity_loss, ranking_loss, release_ranking_loss
from lit_avg.model import AvgLlava
from lit_avg.optim import Optimization
from lit_avg.outcomes import Outcomes
from lit_avg.stages.base import Part
from lit_avg.stages.router_stage import RouterStage


class RGLF(RouterStage):
    """The router learns the frozen LMM's own preferences: loss = ranking_weight * rank + alpha * ce.

    The model's semantics say which ranking loss that is, and its margin.

    Args:
        model: as in `Stage`.
        optimization: as in `Stage`.
        init_from: as in `Stage`.
        frozen: as in `Stage`.
        alpha: weight of the cross-entropy with the best granularity; 0 leaves it out (Table 4, g).
        ranking_weight: weight of the ranking loss; 0 leaves it out (Table 4, f).
    """

    objective = "ranking loss against the LMM's feedback + alpha x cross-entropy with the best granularity"

    def __init__(
        self,
        model: Callable[[], AvgLlava],
        optimization: Optimization,
        init_from: str | None = None,
        frozen: Sequence[Part] = (),
        alpha: float = 0.1,
        ranking_weight: float = 1.0,
    ) -> None:
        super().__init__(model, optimization, init_from, frozen)
        self.alpha = alpha
        self.ranking_weight = ranking_weight

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Questions without an image have nothing to rank and are left out."""
        with torch.no_grad():
            levels = self.model.see(batch)
        feedback = lmm_feedback(self.model, batch, levels).log_prob
        scores = self.model.route(batch, levels).float().log_softmax(dim=1)
        pictured = batch.image_of_question >= 0
        return self.rglf_loss(scores[pictured], feedback[pictured])

    def rglf_loss(self, scores: Tensor, feedback: Tensor) -> dict[str, Tensor]:
        """The weighted sum and its two parts, from router log-probabilities and feedback, both (Q, N)."""
        if not len(scores):
            nothing = scores.sum()  # 0, and still part of the graph, so that every rank has a backward pass
            return {"loss": nothing, "ranking_loss": nothing, "ce_loss": nothing}
        ranking = ranking_loss if self.model.semantics.ranking == "pair sum" else release_ranking_loss
        rank = ranking(scores, feedback, self.model.semantics.margin)
        ce = best_granularity_loss(scores, feedback)
        return {"loss": self.ranking_weight * rank + self.alpha * ce, "ranking_loss": rank, "ce_loss": ce}

    def validation_loss(self, outcomes: Outcomes) -> Tensor:
        """The stage's own loss on all validation questions with an image."""
        assert outcomes.scores is not None
        pictured = outcomes.tiles > 0
        return self.rglf_loss(outcomes.scores[pictured], outcomes.feedback[pictured])["loss"]
