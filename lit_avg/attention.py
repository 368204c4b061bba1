"""Attention within an LLM's layers, in transformers' own form: by torch's fused kernel, or step by step.

A layer that caps its scores (Gemma-2) is always computed step by step, which no fused kernel of torch's can do.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.integrations.sdpa_attention import sdpa_attention_forward


class AttentionFunction(Protocol):
    """Queries (B, H, Q, hd), keys and values (B, G, K, hd) of as many or fewer heads to (B, Q, H, hd)."""

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        """Attend as a bool mask, broadcast to (B, H, Q, K), says; causally without one."""
        ...


def fused(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' `sdpa`, or `step_by_step` where scores are capped."""
    if softcap is not None:
        return step_by_step(module, query, key, value, attention_mask, softcap=softcap, **kwargs)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def step_by_step(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' `eager`: the softmax in float32, scores capped by `softcap` * tanh(score / `softcap`)."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(2, 3) * (query.shape[3] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    if attention_mask is None and query.shape[2] > 1:  # a single one is the newest and sees all
        attention_mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril()
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), None


ATTENTION_FUNCTIONS: Mapping[str, AttentionFunction] = {"sdpa": fused, "eager": step_by_step}
"""By transformers' names."""
