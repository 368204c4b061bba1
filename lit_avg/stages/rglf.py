"""Stage 4: Ranking Granularity to align LMM Feedback (paper, section 3.3)."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lit_avg.batch import Batch
from lit_avg.evaluation.evaluate import outcomes_of
from lit_avg.evaluation.outcomes import Outcomes
from lit_avg.feedback.compute import open_readers
from lit_avg.feedback.lmm_feedback import Feedback, encode_levels_of, feedback_of
from lit_avg.feedback.store import FeedbackReader
from lit_avg.llava_next.hf_model import without_llm
from lit_avg.model import AvgLlava
from lit_avg.routing.losses import best_granularity_loss, ranking_loss, release_ranking_loss
from lit_avg.stages.base import Part
from lit_avg.stages.router_stage import RouterStage
from lit_avg.training.handover import base_weights
from lit_avg.training.optim import Optimization
from lit_avg.utils.arguments import check_number
from lit_avg.utils.errors import UserError


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
        feedback: a store that `lit-avg feedback` wrote, to train from without loading the LLM.
        per_sample: compute each sample by itself, so that its feedback cannot depend on the rest of its batch, and a
            router trained from a store is bit by bit the one trained on live feedback (float32 on a CPU, by as many
            threads). Whole batches are faster, 2.6 times on Jersey, and may differ in the last bits: 1e-6.
        margins: as in `RouterStage`.

    Raises:
        UserError: there is a store, but no `init_from` to say whose feedback is wanted, or the loss has no weight.
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
        feedback: str | None = None,
        per_sample: bool = False,
        margins: Sequence[float] = (),
    ) -> None:
        super().__init__(model, optimization, init_from, frozen, margins)
        check_number("alpha", alpha, least=0)
        check_number("ranking_weight", ranking_weight, least=0)
        if alpha == ranking_weight == 0:
            raise UserError("alpha and ranking_weight are both 0, so that there is no loss; leave one of them above 0")
        if feedback is not None and self.init_from is None:
            raise UserError("feedback: a store is of the model of `init_from`; name the run of stage 3 there")
        self.feedback = feedback
        self.per_sample = per_sample
        self.readers = dict[str, FeedbackReader]()
        self.alpha = alpha
        self.ranking_weight = ranking_weight

    def configure_model(self) -> None:
        """As in `Stage`; where feedback comes from a store there is no LLM. Only fitting can do without it."""
        if hasattr(self, "model"):
            return
        if self.feedback is None or self.init_from is None or self.trainer.state.fn != TrainerFn.FITTING:
            super().configure_model()
            return
        with without_llm(base_weights(self.init_from)["llm"]):
            super().configure_model()
        self.readers = open_readers(self.model, self.init_from, Path(self.feedback), self.trainer, self.per_sample)

    @torch.no_grad()
    def encode_levels(self, batch: Batch) -> list[Tensor]:
        """The levels of every tile, as `AvgLlava.see` gives them."""
        return encode_levels_of(self.model, batch, self.per_sample)

    def feedback_on(self, batch: Batch, levels: list[Tensor]) -> Feedback:
        """From the store if there is one, or else by the LLM."""
        if self.readers:
            reader = self.readers["train" if self.trainer.training else "val"]
            return reader(batch.keys, batch.labels.device)
        return feedback_of(self.model, batch, levels, self.per_sample)

    def evaluate(self, batch: Batch) -> Outcomes:
        """As in `Stage`, with the feedback that this stage has."""
        levels = self.encode_levels(batch)
        return outcomes_of(self.model, batch, levels, self.feedback_on(batch, levels), routed=True)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Questions without an image have nothing to rank and are left out."""
        levels = self.encode_levels(batch)
        feedback = self.feedback_on(batch, levels).log_prob
        scores = self.model.route(batch, levels).float().log_softmax(dim=1)
        pictured = batch.image_of_question >= 0
        return self.rglf_loss(scores[pictured], feedback[pictured])

    def terms(self, batch: Batch) -> Tensor:
        """How many questions have an image."""
        return (batch.image_of_question >= 0).sum()

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
