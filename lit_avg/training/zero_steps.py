"""`ZeroSteps`: DeepSpeed's optimiser steps, counted and weighed as under every other strategy.

Lightning leaves the accumulation of gradients to DeepSpeed, and each divides the loss by the number of micro-batches,
so that gradients, their norm and what clips it are that much too small. DeepSpeed counts micro-batches through all
epochs and Lightning those of an epoch, so that once an epoch ends in the midst of a step the two step at different
batches. And nobody can reach the gradients before the step. Here Lightning counts and says to DeepSpeed when a step is
whole, the loss is divided once, and gradients are divided by a number through DeepSpeed's loss scale, by which its step
divides gradients and norm before it clips.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, Strategy
from torch import Tensor

from lit_avg.utils.errors import UserError


class ZeroSteps(DeepSpeedStrategy):
    """A DeepSpeed strategy of any class, once `count_steps` has seen it."""

    @property
    def handles_gradient_accumulation(self) -> bool:
        """Lightning counts."""
        return False

    @contextmanager
    def block_backward_sync(self) -> Generator[None]:
        """A micro-batch that does not end its step."""
        self.deepspeed_engine.set_gradient_accumulation_boundary(False)
        yield

    def backward(
        self, closure_loss: Tensor, optimizer: torch.optim.Optimizer | None, *args: Any, **kwargs: Any
    ) -> Tensor:
        """As in Lightning, which has divided the loss already."""
        return super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> Any:
        """The micro-batch that ends its step, and the step."""
        self.deepspeed_engine.set_gradient_accumulation_boundary(True)
        try:
            return super().optimizer_step(*args, **kwargs)
        finally:
            self._optimizer.custom_loss_scaler = False

    def divide_gradients(self, by: float) -> None:
        """Have the step that is about to be done divide its gradients, whatever else they are scaled by."""
        self._optimizer.override_loss_scale(self._optimizer.loss_scale * by)

    def check_divides(self) -> None:
        """Refuse an optimiser of DeepSpeed's whose step does not divide by its loss scale.

        Raises:
            UserError: names it.
        """
        from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
        from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

        if not isinstance(self._optimizer, DeepSpeedZeroOptimizer | DeepSpeedZeroOptimizer_Stage3):
            raise UserError(
                f"DeepSpeed's {type(self._optimizer).__name__} keeps the gradients to itself, so they cannot be "
                "averaged over the answer tokens of a whole step; choose ZeRO stage 1, 2 or 3 without a gradient type "
                "of its own, or set model.init_args.optimization.loss_normalisation to micro_batch"
            )

    @property
    def gradient_norm(self) -> Tensor | None:
        """Of the step that was done, before it was clipped; infinite where DeepSpeed left a step out for it.

        None without ZeRO, where DeepSpeed does not tell.
        """
        norm = cast(Tensor | float | None, self.deepspeed_engine.get_global_grad_norm())
        return None if norm is None else torch.as_tensor(norm, device=self.root_device).float()

    @property
    def scale_can_be_lowered(self) -> bool:
        """Whether float16 gradients that are too large are met by a lower loss scale."""
        dynamic = self.deepspeed_engine.fp16_enabled() and bool(self._optimizer.dynamic_loss_scale)
        return dynamic and self._optimizer.loss_scaler.cur_scale > 1

    @property
    def adamw(self) -> Callable[..., torch.optim.Optimizer]:
        """torch's, or DeepSpeed's for a state in the host's memory, where torch's would take the step too slowly."""
        settings = cast(dict[str, Any], self.config).get("zero_optimization", {})
        if not settings.get("offload_optimizer"):
            return torch.optim.AdamW
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return partial(DeepSpeedCPUAdam, adamw_mode=True)

    @property
    def _optimizer(self) -> Any:
        return self.deepspeed_engine.optimizer


def count_steps(strategy: Strategy) -> None:
    """Make a DeepSpeed strategy, whoever derived it from Lightning's, one with `ZeroSteps`; others stay as they are."""
    if not isinstance(strategy, DeepSpeedStrategy) or isinstance(strategy, ZeroSteps):
        return
    own = type(strategy)
    strategy.__class__ = type(own.__name__, (ZeroSteps, own), {"__module__": own.__module__})
    # a number for DeepSpeed's log of its throughput alone, which Lightning would ask of the loader in its own way
    cast(dict[str, Any], strategy.config).setdefault("train_micro_batch_size_per_gpu", 1)
