"""Stage 4: Ranking Granularity to align LMM Feedback (paper, section 3.3)."""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from lit_avg.batch import Batch
from lit_avg.evaluation.evaluate import outcomes_of
from lit_avg.evaluation.outcomes import Outcomes
from lit_avg.feedback.compute import open_readers
from lit_avg.feedback.lmm_feedback import Feedback, encode_levels_of, feedback_of, levels_differ
from lit_avg.feedback.store import FeedbackReader
from lit_avg.llava_next.backbone import BACKBONE_PARTS
from lit_avg.llava_next.hf_model import weights_to_come, whole_hashes, without_llm
from lit_avg.routing.objectives import Objective, RankingObjective, checked_losses
from lit_avg.stages.router_stage import RouterStage
from lit_avg.training.handover import base_weights
from lit_avg.training.sharding import zero_init_suspended
from lit_avg.utils.distributed import shares_weights_with_ranks
from lit_avg.utils.errors import UserError

DEFAULT = RankingObjective()
"""The objective of a stage that is given none, and no weights."""


class RGLF(RouterStage):
    """The router learns the frozen LMM's own preferences, by default with loss = ranking_weight * rank + alpha * ce.

    Args:
        alpha: weight of the cross-entropy with the best granularity, where no `objective` is given; 0 leaves it out
            (Table 4, g).
        ranking_weight: weight of the ranking loss, likewise; 0 leaves it out (Table 4, f).
        feedback: a store that `lit-avg feedback` wrote, to train from without loading the LLM.
        per_sample: compute each sample by itself, so that its feedback cannot depend on the rest of its batch, and a
            router trained from a store is bit by bit the one trained on live feedback (float32 on a CPU, by as many
            threads). Whole batches are faster, 2.6 times on Jersey, and may differ in the last bits: 1e-6.
        objective: another objective, of any class that derives from `Objective`.
        **kwargs: of `RouterStage`.

    Raises:
        UserError: the loss has no weight, or there are weights that the given objective would not hear of, or it has
            parameters of its own.
    """

    def __init__(
        self,
        *args: Any,
        alpha: float = DEFAULT.alpha,
        ranking_weight: float = DEFAULT.ranking_weight,
        feedback: str | None = None,
        per_sample: bool = False,
        objective: Objective | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        weighted = RankingObjective(alpha, ranking_weight)
        if objective is not None and weighted != DEFAULT:
            raise UserError(
                f"alpha {alpha:g} and ranking_weight {ranking_weight:g} weigh the default objective, but it is "
                f"{type(objective).__name__}; give it weights of its own in its init_args, and leave these out"
            )
        if isinstance(objective, nn.Module) and any(True for _ in objective.parameters()):
            raise UserError(
                f"the objective {type(objective).__name__} has parameters, which nothing trains; give it numbers"
            )
        self.feedback = feedback
        self.per_sample = per_sample
        self.readers = dict[str, FeedbackReader]()
        self.objective = objective or weighted

    def configure_model(self) -> None:
        """As in `Stage`; where feedback comes from a store there is no LLM. Only fitting can do without it."""
        if hasattr(self, "model"):
            return
        if self.feedback is None or self.trainer.state.fn != TrainerFn.FITTING:
            super().configure_model()
            return
        base = self.base_weights()
        with without_llm(base["llm"]):
            super().configure_model()
        self.readers = open_readers(self.model, base, Path(self.feedback), self.trainer, self.per_sample)

    @cached_property
    def pretrained(self) -> str | None:
        """Where the backbone is taken from as a whole, if it is."""
        if hasattr(self, "model"):
            return self.model.backbone.pretrained
        nothing_read = weights_to_come(BACKBONE_PARTS)
        with zero_init_suspended(), torch.device("cpu"), torch.random.fork_rng(devices=[]), nothing_read:
            return self.make_model().backbone.pretrained

    def base_weights(self) -> dict[str, str]:
        """SHA-256 of each part of the backbone whose feedback is wanted.

        Raises:
            UserError: it is of random weights.
        """
        if self.init_from is not None:
            return base_weights(self.init_from)
        if self.pretrained is None:
            raise UserError(
                "feedback: a store is of the model of `init_from`; name the run of stage 3 there, or give the backbone "
                "`pretrained`"
            )
        return whole_hashes(self.pretrained)

    def on_fit_start(self) -> None:
        """As in `Stage`; refuse samples by themselves where all ranks have to compute equally often.

        Raises:
            UserError: ranks share the weights.
        """
        super().on_fit_start()
        if self.per_sample and shares_weights_with_ranks(self.model):
            raise UserError(
                "per_sample computes as often as a rank has samples, but the strategy spreads the weights over ranks, "
                "which have to compute equally often; leave it out, or train under ddp or zero2"
            )

    @property
    def loss_in_words(self) -> str:
        """As in `Stage`."""
        return self.objective.in_words

    @torch.no_grad()
    def encode_levels(self, batch: Batch) -> list[Tensor]:
        """The levels of every tile, as `AvgLlava.encode_levels` gives them."""
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
        scores = self.model.route(batch, levels).float().log_softmax(dim=1)
        asked = bool(self.readers) or levels_differ(self.model, batch)  # else nothing of it would be ranked
        feedback = self.feedback_on(batch, levels).log_prob if asked else scores
        pictured = batch.image_of_question >= 0
        return self.rglf_loss(scores[pictured], feedback[pictured])

    def terms(self, batch: Batch) -> Tensor:
        """How many questions have an image."""
        return (batch.image_of_question >= 0).sum()

    def rglf_loss(self, scores: Tensor, feedback: Tensor) -> dict[str, Tensor]:
        """The objective's loss and its parts, from router log-probabilities and feedback, both (Q, N)."""
        if not len(scores):
            nothing = scores.sum()  # 0, and still part of the graph, so that every rank has a backward pass
            return dict.fromkeys(("loss", *self.objective.parts), nothing)
        objective = self.objective.under(self.model.semantics)
        tokens = torch.tensor(self.granularities.tokens, device=scores.device)
        return checked_losses(objective, objective(scores, feedback.detach(), tokens), learns=scores.requires_grad)

    def validation_loss(self, outcomes: Outcomes) -> Tensor:
        """The stage's own loss on all validation questions with an image."""
        assert outcomes.scores is not None
        pictured = outcomes.tiles > 0
        return self.rglf_loss(outcomes.scores[pictured], outcomes.feedback[pictured])["loss"]
