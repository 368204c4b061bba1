"""Frozen weights in the type that autocast computes with: they are rounded once, and not at each call.

Autocast makes a bfloat16 copy of a linear layer's float32 weights whenever it is called, and where gradients go through
a frozen layer each copy is kept for the backward pass. Held in that type, frozen weights take half the memory and none
for copies, and the results are the same to the last bit. Norms and embeddings, which autocast leaves alone, stay.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from lit_avg.utils.mapped_weights import want_type

AUTOCAST_TYPES: Mapping[str, torch.dtype] = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""By Lightning's names of precisions."""


def round_linear_layers(module: nn.Module, parameters: Iterable[nn.Parameter], dtype: torch.dtype) -> None:
    """Give frozen linear layers weights of a type, but for those that something else reads, too.

    Args:
        module: has the layers.
        parameters: those of it that lie elsewhere, so that no checkpoint is to hold them.
        dtype: that autocast computes with.
    """
    inner, known = list(module.modules()), {id(parameter) for parameter in parameters}
    others = [layer for layer in inner if not isinstance(layer, nn.Linear)]
    read_by_others = {id(parameter) for layer in others for parameter in layer.parameters(recurse=False)}
    for layer in inner:
        if isinstance(layer, nn.Linear):
            for parameter in layer.parameters(recurse=False):
                if not parameter.requires_grad and id(parameter) in known - read_by_others:
                    want_type(parameter, dtype)
