"""What a strategy keeps on each device between steps: weights, gradients, optimiser, buffers; and in the host's memory.

AdamW has two moments per trained number. DeepSpeed holds weights in the precision of products and a float32 copy of
what is trained beside the moments; ZeRO stage 1 deals these out over all devices, stage 2 the gradients too, stage 3
the weights, all parts of them. FSDP2 deals out weights, gradients and moments as they were made, and gathers one layer
after the other so. Sizes of buffers are Lightning's and DeepSpeed's defaults, or the config's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from lit_avg.llava_next.backbone import BACKBONE_PARTS, BackbonePart
from lit_avg.planning.fake_step import Computed
from lit_avg.planning.step_flops import layers_of
from lit_avg.stages.base import Stage
from lit_avg.utils.errors import UserError

FP32, BF16 = 4, 2
"""Bytes of a number."""

BUCKET = 200_000_000
"""Numbers in a bucket of gradients or gathered weights: Lightning's `reduce_bucket_size`, `allgather_bucket_size`."""

LIVE = 1_000_000_000
"""Numbers that ZeRO stage 3 may have gathered at a time: DeepSpeed's `stage3_max_live_parameters`."""


@dataclass(frozen=True)
class Weights:
    """How many numbers a model has."""

    all: int
    trained: int
    frozen_backbone: int  # in frozen parts of the backbone
    largest: int  # of the largest tensor
    largest_layer: int
    outside: int  # in no layer: embeddings, LM head, connector, router

    @staticmethod
    def of(stage: Stage) -> "Weights":
        """Of a stage with its model."""
        weights = list(stage.parameters())
        hf = stage.model.backbone.hf
        layers = [*layers_of(cast(Any, hf.model.vision_tower)), *layers_of(cast(Any, hf.model.language_model))]
        each = [numbers(layer) for layer in layers] or [0]
        total = sum(weight.numel() for weight in weights)
        trained = sum(weight.numel() for weight in weights if weight.requires_grad)
        frozen: list[BackbonePart] = [part for part in BACKBONE_PARTS if part not in stage.trained_parts]
        in_frozen = sum(weight.numel() for part in frozen for weight in stage.parameters_of(part))
        return Weights(
            total, trained, in_frozen, max(weight.numel() for weight in weights), max(each), total - sum(each)
        )


def numbers(module: nn.Module) -> int:
    """Of a module's weights."""
    return sum(weight.numel() for weight in module.parameters())


@dataclass(frozen=True)
class Kept:
    """Bytes on each device that do not depend on the batch, and in the host for each process."""

    weights: int
    gradients: int
    optimiser: int
    buffers: int  # of communication, and layers that are gathered
    stepping: int  # for a moment in the optimiser's step, beside all gradients
    loading: int  # before any of this is there
    host: int


@dataclass(frozen=True)
class StrategyPlan:
    """A strategy, as far as memory goes.

    Args:
        name: what tables call it.
        zero: DeepSpeed's stage, 0 for none.
        fsdp: it is FSDP2.
        replicated: several devices each with all of it, DDP.
        offload: optimiser and its gradients are in the host's memory.
        offload_weights: so are weights.
        bucket: numbers of a bucket of gradients.
        bucket_view: DDP's gradients are views into its buckets.
    """

    name: str
    zero: int = 0
    fsdp: bool = False
    replicated: bool = False
    offload: bool = False
    offload_weights: bool = False
    bucket: int = BUCKET
    bucket_view: bool = False

    @property
    def shards_weights(self) -> bool:
        """Whether no device has them all."""
        return self.fsdp or self.zero == 3

    @property
    def keeps_gradients(self) -> bool:
        """Whether each device has all gradients at the end of the backward pass."""
        return not self.fsdp and self.zero < 2

    def computed(self, precision: str) -> Computed:
        """What a step is computed in."""
        if precision in ("bf16-true", "16-true"):
            return "bfloat16"
        if "mixed" in precision:
            return "bfloat16" if self.zero else "autocast"
        return "float32"

    def kept(self, weights: Weights, precision: str, devices: int, moments: int = 8) -> Kept:
        """What each of the devices keeps.

        Args:
            weights: of the model.
            precision: the trainer's.
            devices: of all nodes.
            moments: bytes that the optimiser has for a number, as long as weights are float32.
        """
        width = BF16 if self.computed(precision) == "bfloat16" else FP32
        made = BF16 if precision.endswith("16-true") else FP32  # what weights are when they are loaded
        if self.zero:
            return self._zero(weights, width, made, devices, moments)
        if self.fsdp:
            return self._fsdp(weights, made, devices, min(moments, 2 * made))
        buckets = made * weights.trained * (self.replicated and not self.bucket_view)
        return Kept(
            weights=made * weights.all,
            gradients=0,  # they are in the step's own memory
            optimiser=min(moments, 2 * made) * weights.trained,
            buffers=buckets,
            stepping=2 * made * weights.trained,  # all gradients, and as much again for what AdamW works on at once
            loading=made * (weights.all + weights.largest),
            host=made * weights.largest,
        )

    def _zero(self, weights: Weights, width: int, made: int, devices: int, moments: int) -> Kept:
        own = -(-weights.trained // devices)
        bucket = min(self.bucket, weights.trained)
        shares = devices if self.zero == 3 else 1
        gathered = width * min(LIVE, weights.all) if self.zero == 3 else width * bucket
        optimiser = 0 if self.offload else (FP32 + moments) * own
        of_own = 0 if self.offload or self.zero < 2 else width * own
        return Kept(
            weights=0 if self.offload_weights else width * weights.all // shares,
            gradients=of_own,
            optimiser=optimiser,
            buffers=gathered + 2 * width * bucket * (self.zero > 1),  # one bucket fills while the other is sent
            stepping=(0 if self.offload else 2 * FP32 * own) + (width * weights.trained if self.zero < 2 else 0),
            loading=made * (weights.all // shares + weights.largest),
            host=made * weights.largest
            + (4 * FP32 * own if self.offload else 0)
            + (width * weights.all // devices if self.offload_weights else 0),
        )

    def _fsdp(self, weights: Weights, made: int, devices: int, moments: int) -> Kept:
        own = -(-weights.trained // devices)
        return Kept(
            weights=made * weights.all // devices,
            gradients=made * own,
            optimiser=moments * own,
            # the layer that is computed, the next one, what lies outside, and the gradients of a layer
            buffers=made * (3 * weights.largest_layer + weights.outside),
            stepping=made * own,
            loading=made * (weights.all // devices + weights.largest),
            host=made * weights.largest,
        )


STRATEGIES = (
    StrategyPlan("ddp", replicated=True),
    StrategyPlan("zero2", zero=2),
    StrategyPlan("zero3", zero=3),
    StrategyPlan("zero3_offload", zero=3, offload=True, offload_weights=True),
    StrategyPlan("fsdp2", fsdp=True),
)
"""What a plan compares, the least communication first."""

ONE_DEVICE = (
    StrategyPlan("one device"),
    StrategyPlan("zero2", zero=2),
    StrategyPlan("zero2_offload", zero=2, offload=True),
)
"""What there is for a single one."""

_BY_NAME = {
    "auto": "ddp",
    "ddp": "ddp",
    "ddp_find_unused_parameters_true": "ddp",
    "deepspeed_stage_1": "zero1",
    "deepspeed": "zero2",
    "deepspeed_stage_2": "zero2",
    "deepspeed_stage_3": "zero3",
    "deepspeed_stage_2_offload": "zero2_offload",
    "deepspeed_stage_3_offload": "zero3_offload",
}
"""Lightning's names of strategies."""

_KNOWN = {plan.name: plan for plan in (*STRATEGIES, *ONE_DEVICE, StrategyPlan("zero1", zero=1))}


def configured_strategy(strategy: object, devices: int) -> StrategyPlan:
    """The strategy that a config names.

    Args:
        strategy: the trainer's option: a name, or a class with its arguments.
        devices: of all nodes.

    Raises:
        UserError: nothing is known of its memory.
    """
    if isinstance(strategy, str):
        name = _BY_NAME.get(strategy)
        if name is None:
            known = ", ".join(_BY_NAME)
            raise UserError(f"trainer.strategy: nothing is known of the memory that {strategy} takes, only of {known}")
        return ONE_DEVICE[0] if name == "ddp" and devices == 1 else _KNOWN[name]
    given = cast(Mapping[str, Any], strategy)
    options: dict[str, Any] = dict(given["init_args"] or {})
    kind = str(given["class_path"]).rpartition(".")[2]
    if "DeepSpeed" in kind:
        stage = int(options.get("stage") or 2)
        offload = bool(options.get("offload_optimizer"))
        name = f"zero{stage}{'_offload' if offload else ''}"
        weights, bucket = bool(options.get("offload_parameters")), int(options.get("reduce_bucket_size") or BUCKET)
        return StrategyPlan(name, zero=stage, offload=offload, offload_weights=weights, bucket=bucket)
    if kind in ("ModelParallelStrategy", "FSDP2") or "FSDP" in kind or "ModelParallel" in kind:
        return _KNOWN["fsdp2"]
    if "DDP" in kind:
        if devices == 1:
            return ONE_DEVICE[0]
        return StrategyPlan("ddp", replicated=True, bucket_view=bool(options.get("gradient_as_bucket_view")))
    raise UserError(f"trainer.strategy: nothing is known of the memory that {given['class_path']} takes")
