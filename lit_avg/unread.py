"""What a vision encoder computes behind the hidden state that LLaVA reads, and so never learns."""

from collections.abc import Iterator

from torch import nn

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
