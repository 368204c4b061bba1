"""Recomputation where nothing is trained: a frozen LLM that gradients go through holds as much as a trained one.

transformers recomputes a layer in the backward pass only while it is in training mode, and so with dropout. A frozen
LLM is in evaluation mode, for its dropout has to stay off, though in stage 1 the connector learns through all of it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


def recompute_frozen_layers(module: nn.Module) -> None:
    """Have the layers of a module in evaluation mode recomputed, if gradient checkpointing is on; without dropout.

    Whatever puts them into evaluation mode again, as a validation does, turns it off, and back on with their modes.
    """
    for layer in module.modules():
        if isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing:
            own = cast(Any, layer)  # transformers offers no other way
            own._gradient_checkpointing_func = partial(_recomputed, layer, own._gradient_checkpointing_func)
            layer.training = True  # the layer's own mode alone, which decides on it; not that of what is in it


def _recomputed(
    layer: nn.Module, checkpoint: Callable[..., Any], forward: Callable[..., Any], *arguments: Any
) -> object:
    def in_evaluation_mode(*these: Any) -> object:
        layer.training = False
        try:
            return forward(*these)
        finally:
            layer.training = True

    return checkpoint(in_evaluation_mode, *arguments)
