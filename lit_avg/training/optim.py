"""AdamW over parameter groups, 8-bit if wanted, and the cosine schedule with warm-up of all stages (paper, Table 5)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Literal

from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lit_avg.utils.arguments import check_number, check_numbers
from lit_avg.utils.errors import UserError


@dataclass
class ParameterGroup:
    """Parameters that share a learning rate; `name` is what logs and `describe` call them."""

    name: str
    lr: float
    parameters: list[nn.Parameter] = field(repr=False)


@dataclass(frozen=True)
class Optimization:
    """A stage's optimiser and schedule; defaults are those of all stages in the paper's Table 5.

    Args:
        lr: peak learning rate of everything that has none of its own.
        vision_lr: that of the vision encoder; `lr` if not given.
        adapter_lr: that of the LLM's adapter, where it has one; `lr` if not given.
        betas: of AdamW.
        weight_decay: of AdamW.
        warmup_ratio: share of the steps in which the learning rate rises linearly from 0.
        final_lr_ratio: share of the peak at which the cosine ends.
        loss_normalisation: what a step's gradient is the mean over: `step`, its answer tokens (in stage 4 its questions
            with an image), whichever micro-batch and rank they are of, so that 2 x 4 samples are 8; or `micro_batch`,
            of each micro-batch, and then over micro-batches and ranks, as LLaVA's code and the paper's do, where a
            short answer that is alone weighs as much as many long ones. `step` if not given, under every strategy.
            Without accumulation, on one rank, both are the same.
        optimizer: `adamw`, torch's; or bitsandbytes' with states of 8 bits, a quarter of their memory, `adamw8bit` or
            `paged_adamw8bit`, which moves them to the host where a GPU has no room (arXiv 2110.02861).

    Raises:
        UserError: a number is none that AdamW or the schedule can use, or bitsandbytes is not installed.
    """

    lr: float
    vision_lr: float | None = None
    adapter_lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup_ratio: float = 0.03
    final_lr_ratio: float = 0.0
    loss_normalisation: Literal["step", "micro_batch"] | None = None
    optimizer: Literal["adamw", "adamw8bit", "paged_adamw8bit"] = "adamw"

    def __post_init__(self) -> None:
        check_number("optimization.lr", self.lr, above=0)
        for name, lr in (("vision_lr", self.vision_lr), ("adapter_lr", self.adapter_lr)):
            if lr is not None:
                check_number(f"optimization.{name}", lr, above=0)
        check_numbers("optimization.betas", self.betas, least=0, below=1)
        check_number("optimization.weight_decay", self.weight_decay, least=0)
        check_number("optimization.warmup_ratio", self.warmup_ratio, least=0, most=1)
        check_number("optimization.final_lr_ratio", self.final_lr_ratio, least=0, most=1)
        if self.optimizer != "adamw" and find_spec("bitsandbytes") is None:
            raise UserError(
                f"optimization.optimizer: {self.optimizer} needs the package bitsandbytes, which is not installed; "
                "install it, or choose adamw"
            )


def adamw_with_cosine(
    groups: Sequence[ParameterGroup], total_steps: int, settings: Optimization, adamw: Callable[..., Optimizer] = AdamW
) -> OptimizerLRScheduler:
    """What `configure_optimizers` returns: linear warm-up to each group's lr, then cosine to `final_lr_ratio` of it.

    Args:
        groups: what is trained.
        total_steps: of the run.
        settings: of optimiser and schedule.
        adamw: what `adamw` is: torch's, or another with its arguments.
    """
    optimizer = _adamw(groups, settings, adamw)
    warmup = round(settings.warmup_ratio * total_steps)
    share = partial(share_of_peak, warmup=warmup, total=total_steps, final=settings.final_lr_ratio)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, share), "interval": "step"}}


def share_of_peak(step: int, warmup: int, total: int, final: float) -> float:
    """Of the learning rate, after so many steps; transformers' own, whose import would bring peft and a second of it.

    Args:
        step: from 0.
        warmup: steps in which it rises from 0 to 1.
        total: steps of the run.
        final: where the cosine ends.
    """
    if step < warmup:
        return step / max(1, warmup)
    progress = (step - warmup) / max(1, total - warmup)
    return max(0.0, 0.5 * (1 + math.cos(math.pi * progress)) * (1 - final) + final)


def _adamw(groups: Sequence[ParameterGroup], settings: Optimization, adamw: Callable[..., Optimizer]) -> Optimizer:
    named = [{"params": group.parameters, "lr": group.lr, "name": group.name} for group in groups]
    if settings.optimizer == "adamw":
        return adamw(named, betas=settings.betas, weight_decay=settings.weight_decay)
    if adamw is not AdamW:
        raise UserError(
            f"optimization.optimizer: {settings.optimizer} keeps its state on the GPU, but the strategy moves it to "
            "the host; choose adamw, or a strategy that does not offload"
        )
    if any(isinstance(parameter, DTensor) for group in groups for parameter in group.parameters):
        raise UserError(
            f"optimization.optimizer: {settings.optimizer} cannot take the parameters that FSDP2 shards; choose adamw, "
            "or DeepSpeed as the strategy"
        )
    from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit  # need not be installed

    kind = AdamW8bit if settings.optimizer == "adamw8bit" else PagedAdamW8bit
    return kind(named, betas=settings.betas, weight_decay=settings.weight_decay)
