"""`StepMean`: the gradient of an optimiser step as a mean over all its terms, wherever they were computed.

Micro-batches of a step and its ranks have different numbers of answer tokens. The mean of their means weighs a token
the more, the fewer there are beside it; so the same samples would give another gradient if they were dealt otherwise.
Here the losses' sums are differentiated, and the gradients divided by the number of terms when the step is whole.
"""

from collections.abc import Iterable

import lightning as L
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lit_avg.training.zero_steps import ZeroSteps
from lit_avg.utils.errors import UserError


class StepMean:
    """What a step has of terms so far."""

    def __init__(self) -> None:
        self._terms: list[Tensor] = []

    def add(self, loss: Tensor, terms: Tensor) -> Tensor:
        """The sum to be differentiated, of a micro-batch's mean over so many terms."""
        self._terms.append(terms)
        return loss * terms

    def divide(self, gradients: Iterable[Tensor], trainer: L.Trainer) -> None:
        """Make gradients the mean over the step; they have become one over micro-batches and ranks."""
        own = torch.stack(self._terms).sum().to(torch.float64 if self._terms[0].device.type != "mps" else torch.float32)
        self._terms.clear()
        terms = trainer.strategy.reduce(own, reduce_op="sum")
        assert isinstance(terms, Tensor)
        factor = trainer.accumulate_grad_batches * trainer.world_size / terms.clamp(min=1)
        if isinstance(trainer.strategy, ZeroSteps):
            trainer.strategy.divide_gradients(1 / factor.item())
            return
        for gradient in gradients:
            own_part = gradient.to_local() if isinstance(gradient, DTensor) else gradient
            own_part.mul_(factor.to(own_part.dtype))


def check_step_mean(trainer: L.Trainer) -> None:
    """Refuse where gradients cannot be divided before the step.

    Raises:
        UserError: the strategy accumulates by itself.
    """
    if isinstance(trainer.strategy, ZeroSteps):
        trainer.strategy.check_divides()
    elif trainer.strategy.handles_gradient_accumulation:
        raise UserError(
            f"{type(trainer.strategy).__name__} keeps the gradients to itself, so they cannot be averaged over the "
            "answer tokens of a whole step; set model.init_args.optimization.loss_normalisation to micro_batch"
        )
