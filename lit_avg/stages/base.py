"""What all stages share: freezing, parameter groups, logging, evaluation. A stage adds what it trains and its loss."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import AdamW

from lit_avg.batch import IGNORED_LABEL, Batch
from lit_avg.data import ShardsData
from lit_avg.evaluation.evaluate import answer_questions, try_every_granularity
from lit_avg.evaluation.metrics import Accuracy, PolicyMetric, policy_metrics, with_defaults
from lit_avg.evaluation.outcomes import Outcomes, Prediction, gathered
from lit_avg.feedback.lmm_feedback import require_answers
from lit_avg.llava_next.backbone import BACKBONE_PARTS, BackbonePart
from lit_avg.llava_next.generation import check_end_token
from lit_avg.llava_next.hf_model import weights_to_come
from lit_avg.llava_next.recomputation import recompute_frozen_layers
from lit_avg.model import AvgLlava
from lit_avg.result_names import ACCURACY, SELECTED
from lit_avg.routing.policies import FixedPolicy, Policy, RouterPolicy, by_name, fixed_policies
from lit_avg.runs.origins import Origin, origin_of
from lit_avg.stages.checkpoint_content import CheckpointContent
from lit_avg.stages.trained_parts import PARTS, Part, check_frozen, parts_to_train
from lit_avg.training.autocast_weights import AUTOCAST_TYPES, round_linear_layers
from lit_avg.training.handover import initialise_from
from lit_avg.training.optim import Optimization, ParameterGroup, adamw_with_cosine
from lit_avg.training.sharding import bring_to_memory, zero_init_suspended
from lit_avg.training.step_mean import StepMean, check_step_mean
from lit_avg.training.zero_steps import ZeroSteps
from lit_avg.utils.arguments import check_validated
from lit_avg.utils.errors import UserError
from lit_avg.visual_tokens.context_length import check_context_length
from lit_avg.visual_tokens.granularity import Granularities

RANDOM = "random"
"""What `init_from` says where a stage is to start from weights that nothing has trained."""


class Stage(CheckpointContent):
    """One training stage.

    Args:
        model: makes the `AvgLlava`; called when the strategy is ready for it.
        optimization: learning rates, AdamW and schedule.
        init_from: run directory or checkpoint of the stage before, whose weights this one starts from; `random` for
            what the backbone is built with, which is what a `pretrained` one has anyway.
        frozen: parts of `trains` that this run leaves frozen all the same. Where the LLM has an adapter, that is
            trained in its stead and is called `llm_adapter`.
        policies: what a test compares besides the stage's own; of any class that derives from `Policy`.
        metrics: what is measured besides the default ones; of any class that derives from `PolicyMetric`.

    Raises:
        UserError: nothing is left to train, or `frozen` names what is not trained anyway.
    """

    trains: ClassVar[tuple[Part, ...]]
    starts_from: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        model: Callable[[], AvgLlava],
        optimization: Optimization,
        init_from: str | None = None,
        frozen: Sequence[Part] = (),
        policies: Sequence[Policy] = (),
        metrics: Sequence[PolicyMetric] = (),
    ) -> None:
        super().__init__()
        check_frozen(type(self).__name__, self.trains, frozen)
        self.init_from = None if init_from == RANDOM else init_from
        if self.init_from is not None and not self.init_from.strip():
            raise UserError("init_from is empty; name the run of the stage before")
        self.save_hyperparameters()
        self.strict_loading = False  # checkpoints leave out what lies elsewhere; see `on_load_checkpoint`
        self.make_model = model
        self.optimization = optimization
        self.further_policies = tuple(policies)
        self.metrics = with_defaults(metrics)  # in a tuple, out of Lightning's sight: outcomes are on the CPU
        self.begun_from: Origin | None = None
        self.frozen = tuple(frozen)
        self.trained_parts: tuple[Part, ...] = tuple(part for part in self.trains if part not in frozen)
        self.outcomes: Outcomes | None = None
        self._evaluated: list[Outcomes] = []
        self._step_mean = StepMean()

    def configure_model(self) -> None:
        """Build the model, take over the weights of the stage before, freeze what this stage does not train."""
        if hasattr(self, "model"):
            return
        try:
            self._build(torch.empty(0).device)
        except BaseException:
            self._modules.pop("model", None)  # Lightning moves what it ends with, and this has no memory yet
            raise
        self._named_policies()  # what no test could compare is refused before anything is trained

    def _build(self, device: torch.device) -> None:
        """On the CPU, where what is drawn is drawn alike for every device, and from there to where it is wanted."""
        with zero_init_suspended() as zero_init, torch.device("cpu"):
            with weights_to_come(self.parts_to_come):
                self.model = self.make_model()
                with torch.random.fork_rng(devices=[]):  # what training draws shall not depend on what loading draws
                    self.load_weights()
            self.freeze_the_rest()
            if zero_init is None and self.device_mesh is None:  # where weights are sharded, all have one type
                self._round_frozen_weights()
            bring_to_memory(self.model, device, zero_init, self.device_mesh)

    def _round_frozen_weights(self) -> None:
        """Under autocast, what is frozen and lies elsewhere is held in the type that is computed with."""
        dtype = None if self._trainer is None else AUTOCAST_TYPES.get(str(self._trainer.precision))
        if dtype is not None:
            backbone = self.model.backbone
            parts: list[BackbonePart] = [part for part in backbone.hash_of_origin if part not in self.trained_parts]
            round_linear_layers(backbone, [one for part in parts for one in backbone.parameters_of(part)], dtype)

    def on_fit_start(self) -> None:
        """Refuse data whose answers end with a token at which the model does not stop, or longer than it reads."""
        data = cast(Any, self.trainer).datamodule
        if isinstance(data, ShardsData):
            check_end_token(data.end_token, self.model.backbone.end_tokens)
            longest = data.longest_sequence(self.model.layout)
            check_context_length(longest, self.model.layout, self.model.backbone.positions)

    def on_train_start(self) -> None:
        """Refuse an interval of validation that is longer than the epochs, and an optimiser that averages otherwise.

        Raises:
            UserError: the run would never be validated, or its gradients be no mean over a step.
        """
        if self._spans:
            check_step_mean(self.trainer)
        trainer, interval = self.trainer, self.trainer.val_check_batch
        batches = trainer.num_training_batches * (trainer.max_epochs or 0)
        if trainer.enable_validation and trainer.check_val_every_n_epoch is None and interval and batches > 0:
            check_validated(batches, interval)

    @property
    def parts_to_come(self) -> Collection[BackbonePart]:
        """The parts of the backbone that `load_weights` fills."""
        return () if self.init_from is None else BACKBONE_PARTS

    @property
    def start_in_words(self) -> str:
        """What `lit-avg describe` says of the weights that training starts from."""
        return self.init_from or self.model.backbone.pretrained or "random weights"

    def load_weights(self) -> None:
        """Take over the backbone of the stage before."""
        if self.init_from is not None:
            initialise_from(self.model, self.init_from, self.starts_from)
            if self.begun_from is None and self._trainer is not None:  # without one there is no run to keep it for
                self.begun_from = origin_of(self.init_from, Path(self._trainer.default_root_dir))

    def freeze_the_rest(self) -> None:
        """Leave gradients, dropout and recomputation to the parts that are trained, and to what of them is read at all.

        The release's semantics have no stage train the vision encoder. An LLM's adapter is added here, if none came
        with the weights of the stage before, but not in the first stage, which neither trains one nor hands one on.

        Raises:
            UserError: `frozen` leaves nothing to train, or speaks of an adapter that there is not.
        """
        if self.starts_from:
            self.model.backbone.add_adapter()
        adapted = self.model.backbone.lora is not None
        self.trained_parts = parts_to_train(type(self).__name__, self.trains, self.frozen, adapted)
        if self.model.semantics.vision_encoder == "frozen":
            self.trained_parts = tuple(part for part in self.trained_parts if part != "vision_encoder")
        self.model.requires_grad_(False).eval()
        for part in self.trained_parts:
            for module in [self.model.router] if part == "router" else self.model.backbone.modules_of(part):
                module.train()
            for parameter in self.parameters_of(part):
                parameter.requires_grad_(True)
        for parameter in self.model.backbone.unread_parameters():
            parameter.requires_grad_(False)
        if "llm" not in self.trained_parts:
            recompute_frozen_layers(self.model.backbone.hf.model.language_model)

    @property
    def loss_in_words(self) -> str:
        """What `lit-avg describe` says of the loss."""
        return "cross-entropy of the answer tokens at the finest granularity"

    @property
    def granularities(self) -> Granularities:
        """The levels of detail, coarse to fine."""
        return self.model.granularities

    @property
    def policies(self) -> dict[str, Policy]:
        """The policies that a test compares, by name."""
        return self._named_policies()

    def _named_policies(self) -> dict[str, Policy]:
        policies = [*self.default_policies(), *self.further_policies]
        return by_name(policies, self.granularities, routed="router" in self.trains)

    def default_policies(self) -> list[Policy]:
        """What a test of this stage always compares, in the order of tables."""
        return fixed_policies(self.granularities)

    def parameters_of(self, part: Part) -> list[nn.Parameter]:
        """The parameters of one part of the model."""
        if part == "router":
            return list(self.model.router.parameters())
        return self.model.backbone.parameters_of(part)

    def parameter_groups(self) -> list[ParameterGroup]:
        """What the optimiser gets: the trained parts, some with a learning rate of their own."""
        settings = self.optimization
        own = {"vision_encoder": settings.vision_lr, "llm_adapter": settings.adapter_lr}
        lrs = {part: own.get(part) or settings.lr for part in PARTS}
        learning = {part: [one for one in self.parameters_of(part) if one.requires_grad] for part in self.trained_parts}
        return [ParameterGroup(part, lrs[part], parameters) for part, parameters in learning.items()]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW and cosine over the run's own number of steps."""
        steps = int(self.trainer.estimated_stepping_batches)
        strategy = self.trainer.strategy
        adamw = strategy.adamw if isinstance(strategy, ZeroSteps) else AdamW
        return adamw_with_cosine(self.parameter_groups(), steps, self.optimization, adamw)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The stage's loss under `loss`, and the parts it is made of under their own names.

        Here, as in stages 1 and 2: mean negative log-prob of the batch's answer tokens at the finest granularity.
        """
        levels = self.model.encode_levels(batch)
        return {"loss": -self.model.answer_tokens_at(batch, levels, len(levels) - 1).log_prob.mean()}

    def terms(self, batch: Batch) -> Tensor:
        """How many terms the loss of a batch is the mean of: its answer tokens."""
        return (batch.labels != IGNORED_LABEL).sum()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One micro-batch: `loss` is what is differentiated, `mean_loss` the batch's own."""
        require_answers(batch)
        parts = self.model(self.loss, batch)
        self.watch_loss(parts["loss"], batch.keys)
        for name, value in parts.items():
            self.log(f"train/{name}", value.detach(), batch_size=len(batch.keys), prog_bar=name == "loss")
        loss = parts["loss"]
        return {
            "loss": self._step_mean.add(loss, self.terms(batch)) if self._spans else loss,
            "mean_loss": loss.detach(),
        }

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """As in `FiniteTraining`, once the gradient is that of the whole step."""
        if self._spans:
            self._step_mean.divide([one.grad for one in self.parameters() if one.grad is not None], self.trainer)
        super().on_before_optimizer_step(optimizer)

    @property
    def _spans(self) -> bool:
        """Whether a step's gradient is a mean over more than one micro-batch."""
        batches = self.trainer.accumulate_grad_batches * self.trainer.world_size
        return batches > 1 and self.optimization.loss_normalisation != "micro_batch"

    def evaluate(self, batch: Batch) -> Outcomes:
        """Try every granularity on every question."""
        return try_every_granularity(self.model, batch, routed="router" in self.trains)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect outcomes; they are judged together when all are there."""
        outcomes = self.model(self.evaluate, batch)
        self._evaluated.append(outcomes.rows(torch.tensor(batch.counted, dtype=torch.long)))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """As in validation."""
        self.validation_step(batch, batch_idx)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Prediction]:
        """Answer every question at the granularity that the stage's own policy chooses."""
        answered = self.model(self.answer, batch)
        return [answered[question] for question in batch.counted]

    def answer(self, batch: Batch) -> list[Prediction]:
        """Answers to all questions of a batch."""
        return answer_questions(self.model, batch, self.own_policy, routed="router" in self.trains)

    def on_validation_epoch_end(self) -> None:
        """Log the stage's own choice of granularity and the accuracy at each level."""
        outcomes = self._gather()
        self.log("val/loss", self.validation_loss(outcomes), prog_bar=True)
        for tokens, policy in zip(self.granularities.tokens, fixed_policies(self.granularities), strict=True):
            accuracy = policy_metrics(outcomes, outcomes.chosen_by(policy), [Accuracy()])[ACCURACY.name]
            self.log(f"val/{ACCURACY.name}@{tokens}", accuracy)
        own = self.own_policy
        for metric, value in policy_metrics(outcomes, outcomes.chosen_by(own), self.metrics).items():
            selection = metric.startswith(f"{SELECTED.name}/")
            self.log(f"{own.name}/{metric}" if selection else f"val/{metric}", value)

    def on_test_epoch_end(self) -> None:
        """Log every policy's metrics as `test/<policy>/<metric>`."""
        outcomes = self._gather()
        for name, policy in self.policies.items():
            metrics = policy_metrics(outcomes, outcomes.chosen_by(policy), self.metrics)
            self.log_dict({f"test/{name}/{metric}": value for metric, value in metrics.items()})

    def validation_loss(self, outcomes: Outcomes) -> Tensor:
        """Mean negative log-prob of an answer at the finest granularity."""
        return -outcomes.feedback[:, -1].mean()

    @property
    def own_policy(self) -> Policy:
        """How the stage itself chooses: by the router if it trains one, else the finest level."""
        return RouterPolicy() if "router" in self.trains else FixedPolicy(self.granularities.finest)

    def _gather(self) -> Outcomes:
        """The outcomes of all ranks, also left in `self.outcomes`; raises as `gathered` does."""
        own, self._evaluated, self.outcomes = self._evaluated, [], None
        self.outcomes = gathered(own, self.trainer.world_size)
        return self.outcomes
