"""Log-probabilities of answer tokens without ever holding the logits of all of them.

The LM head takes the hidden states a few at a time, and again in the backward pass: what is held is C x V logits,
whatever the number of answer tokens.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lit_avg.utils.distributed import shards

CHUNK = 1024
"""C, tokens that the LM head takes at a time."""


def score(head: nn.Module, hidden: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """What the LM head makes of each answer token.

    Where the head's weights are sharded all tokens are taken at once: every rank must call the head equally often,
    and their numbers of answer tokens differ.

    Args:
        head: (..., D) to logits (..., V).
        hidden: (A, D) last hidden state where each token is predicted.
        tokens: (A,) the answer tokens.

    Returns:
        Their log-probs in float32 and the most probable tokens, both (A,).
    """
    if len(tokens) <= CHUNK or shards(head):
        return _scored(head, hidden, tokens)
    scored = [
        checkpoint(_scored, head, some, these, use_reentrant=False)
        for some, these in zip(hidden.split(CHUNK), tokens.split(CHUNK), strict=True)
    ]
    log_probs, best = zip(*scored, strict=True)
    return torch.cat(log_probs), torch.cat(best)


def _scored(head: nn.Module, hidden: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    logits = head(hidden).float()
    return -F.cross_entropy(logits, tokens, reduction="none"), logits.argmax(dim=1)
