"""What a run's checkpoints hold, and how many are written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from lit_avg.planning.schedule import Schedule
from lit_avg.planning.strategies import BF16, FP32, StrategyPlan, Weights
from lit_avg.stages.base import Stage
from lit_avg.stages.pretrain import Pretrain


@dataclass(frozen=True)
class Checkpoints:
    """Of one run.

    Args:
        size: bytes of each.
        saves: how many are written at validations, the end, and by the count of steps; None if nobody knows.
        minutes: between two more, or longer where they would take more than a twentieth of the time; None for no such.
        disk: bytes at most: one is whole while the next is written, and weights that were sharded lie in one file, too.
    """

    size: int
    saves: int | None
    minutes: float | None
    disk: int


def checkpoints(
    stage: Stage,
    weights: Weights,
    strategy: StrategyPlan,
    precision: str,
    trainer: Mapping[str, Any],
    plan: Schedule,
    moments: int,
) -> Checkpoints:
    """What a run writes: trained weights, frozen ones that lie nowhere else, and what the optimiser has for each.

    DeepSpeed adds the float32 copy of what is trained.
    """
    made = BF16 if precision.endswith("16-true") else FP32
    written = BF16 if strategy.zero and strategy.computed(precision) == "bfloat16" else made
    elsewhere = stage.init_from is not None or (isinstance(stage, Pretrain) and bool(stage.pretrained_parts))
    kept = weights.trained + (0 if elsewhere else weights.frozen_backbone)
    of_optimiser = (moments + FP32 if strategy.zero else min(moments, 2 * made)) * weights.trained
    size = written * kept + of_optimiser
    consolidated = FP32 * kept if strategy.zero or strategy.fsdp else 0
    callbacks = cast(Sequence[Any], trainer["callbacks"] or [])
    own = [one for one in callbacks if str(one["class_path"]).endswith(".LastCheckpoint")]
    often = cast(Mapping[str, Any], own[0].get("init_args") or {}) if own else {}
    return Checkpoints(
        size, _saves(often.get("every_steps"), plan), often.get("every_minutes"), 2 * size + consolidated
    )


def _saves(every: int | None, plan: Schedule) -> int | None:
    if plan.steps is None:
        return None
    return (plan.steps // every if every else 0) + plan.validations + 1
