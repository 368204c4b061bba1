"""A sum of losses, each with its own backward pass, so that only one graph is held at a time.

The loss of stage 3 is a sum over granularities and would hold the LLM's activations at all of them until `backward`.
Here each term is differentiated as soon as it is computed. Lightning still owns `backward`: the sum is the output of an
autograd function whose inputs are the shared features and the trained parameters, and whose backward pass hands out the
gradients that were found, times the sum's own. So everything happens there as ever: the division by
`accumulate_grad_batches`, DDP's hooks and buckets, clipping, and from the features on the way back through connector
and encoder, once. Held beside one graph are the gradients, once, which `backward` would make as well: a term's own are
added up as they are found, parameter by parameter, and `backward` takes over the sums.

Where it cannot be used the caller adds up the terms: under FSDP2 and ZeRO-3, whose gradients are not found by asking
for those of a parameter, and under float16 autocast, where gradients must be scaled before they are computed.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def sum_with_sequential_backward(
    terms: Sequence[Callable[[Tensor], Tensor]],
    features: Tensor,
    parameters: Sequence[Tensor],
    weight: float,
    times: int = 1,
) -> tuple[Tensor, list[Tensor]]:
    """The weighted sum of losses of the same features.

    Args:
        terms: each a scalar loss, given the features.
        features: what they share.
        parameters: what they depend on besides, as far as it is trained.
        weight: of each term.
        times: how often each counts.

    Returns:
        The sum, to be differentiated as any loss, and the terms without graph.
    """
    shared = features.detach().requires_grad_(features.requires_grad)
    inputs = [tensor for tensor in (shared, *parameters) if tensor.requires_grad]
    gradients, losses = [torch.zeros_like(tensor) for tensor in inputs], list[Tensor]()
    with _added_up(inputs, gradients, times):
        for term in terms:
            loss = term(shared)
            torch.autograd.grad(loss * weight, inputs, allow_unused=True)
            losses.append(loss.detach())
            del loss
    total = torch.stack(losses * times).sum() * weight
    originals = [tensor for tensor in (features, *parameters) if tensor.requires_grad]
    return PrecomputedGradients.apply(total, gradients, *originals), losses  # pyright: ignore[reportReturnType]  apply is untyped


@contextmanager
def _added_up(inputs: Sequence[Tensor], sums: Sequence[Tensor], times: int) -> Generator[None]:
    """Add each gradient to its sum when it is found; what asked for it is given zeros that take no memory."""

    def add(total: Tensor, gradient: Tensor) -> Tensor:
        for _ in range(times):  # to the last bit what that many terms would come to
            total += gradient
        return gradient.new_zeros(()).expand_as(gradient)

    hooks = [tensor.register_hook(partial(add, total)) for tensor, total in zip(inputs, sums, strict=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class PrecomputedGradients(torch.autograd.Function):
    """A number whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *inputs: Tensor) -> Tensor:
        """`value`, with a gradient for each of the inputs."""
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]  the decorator is untyped
        """Each input's gradient, times that of the value; the tensors are given away, so only once."""
        gradients, ctx.gradients = ctx.gradients, None
        return None, None, *(own.mul_(gradient[0]) for own in gradients)
