"""The vision encoder up to the layer that is read, and no further; what lies behind it never learns."""

from collections.abc import Iterator
from typing import cast

from torch import Tensor, nn
from transformers import PreTrainedModel


def hidden_state(encoder: PreTrainedModel, pixel_values: Tensor, index: int) -> Tensor:
    """One of transformers' hidden states of an encoder, without computing the layers behind it.

    Args:
        encoder: CLIP's or another whose layers are `encoder.layers`.
        pixel_values: (tiles, 3, S, S).
        index: 0 is what goes into the first layer, -1 what comes out of the last.

    Returns:
        (tiles, tokens, width), before any norm that follows the last layer.
    """
    inner = cast(nn.Module, encoder.encoder)
    layers = cast(nn.ModuleList, inner.layers)
    needed = index if index >= 0 else len(layers) + 1 + index
    if needed == 0:
        return encoder(pixel_values, output_hidden_states=True).hidden_states[0]
    read: list[Tensor] = []

    def keep(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        read.append(output)

    hook = layers[needed - 1].register_forward_hook(keep)
    inner.layers = layers[:needed]
    try:
        encoder(pixel_values)
    finally:
        inner.layers = layers
        hook.remove()
    return read[0]


BEHIND_THE_LAYERS = ("post_layernorm", "head")
"""What CLIP and SigLIP do with the last hidden state; a LLaVA-NeXT takes none of it."""


def unread_parameters(encoder: nn.Module, layers: int, index: int) -> Iterator[nn.Parameter]:
    """Parameters that have no influence on a hidden state, and so get no gradient, which DDP does not forgive.

    Args:
        encoder: transformers' CLIP or SigLIP.
        layers: how many it has.
        index: which hidden state is read: 0 what goes into the first layer, -1 what comes out of the last.
    """
    read = index if index >= 0 else layers + 1 + index
    unread = tuple(f"encoder.layers.{number}." for number in range(read, layers))
    for name, parameter in encoder.named_parameters():
        if name.startswith((*unread, *BEHIND_THE_LAYERS)):
            yield parameter
