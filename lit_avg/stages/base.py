"""What all stages share: freezing, parameter groups, logging, evaluation. A stage adds what it trains and its loss."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from lit_avg.batch import PREFIX, Batch
from lit_avg.checkpoints import STAGE_KEY, initialise_from, plain
from lit_avg.errors import UserError
from lit_avg.feedback import lmm_feedback, require_answers
from lit_avg.granularity import Granularities
from lit_avg.metrics import policy_metrics
from lit_avg.model import AvgLlava
from lit_avg.optim import Optimization, ParameterGroup, adamw_with_cosine
from lit_avg.outcomes import Outcomes, Prediction
from lit_avg.policies import Policy, fixed_policies
from lit_avg.sequences import visual_token_counts

Part = Literal["vision_encoder", "connector", "llm", "router"]

PARTS: tuple[Part, ...] = ("vision_encoder", "connector", "llm", "router")
"""The parts of an `AvgLlava`, in the order of the data's way through them."""


class Stage(L.LightningModule):
    """One training stage.

    Args:
        model: makes the `AvgLlava`; called when the strategy is ready for it.
        optimization: learning rates, AdamW and schedule.
        init_from: run directory or checkpoint of the stage before, whose weights this one starts from.
        frozen: parts of `trains` that this run leaves frozen all the same.
    """

    trains: ClassVar[tuple[Part, ...]]
    starts_from: ClassVar[tuple[str, ...]] = ()
    objective: ClassVar[str] = "cross-entropy of the answer tokens at the finest granularity"
    """The loss in words, for `lit-avg describe`."""

    def __init__(
        self,
        model: Callable[[], AvgLlava],
        optimization: Optimization,
        init_from: str | None = None,
        frozen: Sequence[Part] = (),
    ) -> None:
        super().__init__()
        if unknown := set(frozen) - set(self.trains):
            raise UserError(f"frozen: {type(self).__name__} does not train {', '.join(unknown)} anyway")
        self.save_hyperparameters()
        self.make_model = model
        self.optimization = optimization
        self.init_from = init_from
        self.trained_parts: tuple[Part, ...] = tuple(part for part in self.trains if part not in frozen)
        self.outcomes: Outcomes | None = None
        self._evaluated: list[Outcomes] = []

    def configure_model(self) -> None:
        """Build the model, take over the weights of the stage before, freeze what this stage does not train."""
        if hasattr(self, "model"):
            return
        self.model = self.make_model()
        self.load_weights()
        self.freeze_the_rest()

    def load_weights(self) -> None:
        """Take over the backbone of the stage before."""
        if self.init_from is not None:
            initialise_from(self.model, self.init_from, self.starts_from)

    def freeze_the_rest(self) -> None:
        """Leave gradients, dropout and recomputation to the parts that are trained.

        The release's semantics have no stage train the vision encoder.
        """
        if self.model.semantics.vision_encoder == "frozen":
            self.trained_parts = tuple(part for part in self.trained_parts if part != "vision_encoder")
        self.model.requires_grad_(False).eval()
        for part in self.trained_parts:
            for module in [self.model.router] if part == "router" else self.model.backbone.modules_of(part):
                module.train()
            for parameter in self.parameters_of(part):
                parameter.requires_grad_(True)

    @property
    def granularities(self) -> Granularities:
        """The levels of detail, coarse to fine."""
        return self.model.granularities

    @property
    def policies(self) -> dict[str, Policy]:
        """The policies that a test compares, by name."""
        return fixed_policies(self.granularities)

    def parameters_of(self, part: Part) -> list[nn.Parameter]:
        """The parameters of one part of the model."""
        if part == "router":
            return list(self.model.router.parameters())
        return self.model.backbone.parameters_of(part)

    def parameter_groups(self) -> list[ParameterGroup]:
        """What the optimiser gets: the trained parts, the vision encoder with a learning rate of its own."""
        lr = self.optimization.lr
        lrs = {part: self.optimization.vision_lr or lr if part == "vision_encoder" else lr for part in PARTS}
        return [ParameterGroup(part, lrs[part], self.parameters_of(part)) for part in self.trained_parts]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW and cosine over the run's own number of steps."""
        steps = int(self.trainer.estimated_stepping_batches)
        return adamw_with_cosine(self.parameter_groups(), steps, self.optimization)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The stage's loss under `loss`, and the parts it is made of under their own names.

        Here, as in stages 1 and 2: mean negative log-prob of the batch's answer tokens at the finest granularity.
        """
        levels = self.model.see(batch)
        return {"loss": -self.model.answer_tokens_at(batch, levels, len(levels) - 1).log_prob.mean()}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step on one batch."""
        require_answers(batch)
        parts = self.loss(batch)
        for name, value in parts.items():
            self.log(f"train/{name}", value.detach(), batch_size=len(batch.keys), prog_bar=name == "loss")
        return parts["loss"]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the norm of the gradient before it is clipped."""
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        self.log("train/gradient_norm", nn.utils.get_total_norm(gradients))

    def evaluate(self, batch: Batch) -> Outcomes:
        """Try every granularity on every question."""
        levels = self.model.see(batch)
        feedback = lmm_feedback(self.model, batch, levels)
        scores = self.model.route(batch, levels).float().log_softmax(dim=1).cpu() if "router" in self.trains else None
        tiles = torch.tensor([*batch.tiles, 0])[batch.image_of_question.cpu()]
        own_text = batch.question[batch.question >= 0].bincount(minlength=len(batch.keys))
        prefix = (batch.question == PREFIX).sum(dim=1)[batch.row_of_question] - (batch.image_of_question >= 0).long()
        return Outcomes(
            keys=batch.keys,
            kinds=batch.kinds,
            correct=feedback.correct.cpu(),
            feedback=feedback.log_prob.cpu(),
            scores=scores,
            visual_tokens=visual_token_counts(batch, self.model.layout),
            text_tokens=(own_text + prefix).cpu(),
            tiles=tiles,
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect outcomes; they are judged together when all are there."""
        self._evaluated.append(self.evaluate(batch))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """As in validation."""
        self._evaluated.append(self.evaluate(batch))

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Prediction]:
        """Answer every question at the granularity that the stage's own policy chooses."""
        outcomes = self.evaluate(batch)
        chosen = self.own_policy(outcomes)[1].choose(outcomes).tolist()
        answers = self.model.generate(batch, chosen, max_new_tokens=128).cpu()
        scores = [None] * len(chosen) if outcomes.scores is None else outcomes.scores.exp().tolist()
        return [
            Prediction(
                key=batch.keys[question],
                kind=batch.kinds[question],
                answer=answers[question],
                granularity=self.granularities.tokens[level],
                visual_tokens=int(outcomes.visual_tokens[question, level]),
                probabilities=scores[question],
            )
            for question, level in enumerate(chosen)
        ]

    def on_validation_epoch_end(self) -> None:
        """Log the stage's own choice of granularity and the accuracy at each level."""
        outcomes = self._gather()
        self.log("val/loss", self.validation_loss(outcomes), prog_bar=True)
        for tokens, policy in zip(self.granularities.tokens, fixed_policies(self.granularities).values(), strict=True):
            metrics = policy_metrics(outcomes, policy.choose(outcomes), self.granularities)
            self.log(f"val/accuracy@{tokens}", metrics["accuracy"])
        name, policy = self.own_policy(outcomes)
        for metric, value in policy_metrics(outcomes, policy.choose(outcomes), self.granularities).items():
            selection = metric.startswith("selected/")
            self.log(f"{name}/{metric}" if selection else f"val/{metric}", value)

    def on_test_epoch_end(self) -> None:
        """Log every policy's metrics as `test/<policy>/<metric>`."""
        outcomes = self._gather()
        for name, policy in self.policies.items():
            metrics = policy_metrics(outcomes, policy.choose(outcomes), self.granularities)
            self.log_dict({f"test/{name}/{metric}": value for metric, value in metrics.items()})

    def validation_loss(self, outcomes: Outcomes) -> Tensor:
        """Mean negative log-prob of an answer at the finest granularity."""
        return -outcomes.feedback[:, -1].mean()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the stage, and keep of the hyperparameters what can be read back without running code."""
        checkpoint[STAGE_KEY] = type(self).__name__
        checkpoint["hyper_parameters"] = plain(checkpoint.get("hyper_parameters", {}))

    def own_policy(self, outcomes: Outcomes) -> tuple[str, Policy]:
        """How the stage itself chooses, and the policy's name: by the router if it has one, else the finest level."""
        if outcomes.scores is not None:
            return "router", self.policies["router"]
        return list(fixed_policies(self.granularities).items())[-1]

    def _gather(self) -> Outcomes:
        """The outcomes of all ranks, each question once, in the order of their keys; also left in `self.outcomes`."""
        parts: list[list[Outcomes]] = [self._evaluated]
        if self.trainer.world_size > 1:
            parts = [[]] * self.trainer.world_size
            torch.distributed.all_gather_object(parts, self._evaluated)
        self._evaluated = []
        self.outcomes = Outcomes.merge([outcomes for part in parts for outcomes in part]).sorted()
        return self.outcomes
