"""Log-probabilities of answer tokens: the LLM's last hidden states where one is predicted, and its head on these.

The logits of all answer tokens are never held at once. The LM head takes the hidden states a few at a time, and again
in the backward pass: what is held is C x V logits, whatever the number of answer tokens.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from lit_avg.llava_next.llm_configs import check_lengths
from lit_avg.llava_next.llm_input import LlmInput
from lit_avg.llava_next.packed_attention import PACKED_ATTENTION, last_hidden
from lit_avg.utils.distributed import is_sharded
from lit_avg.utils.errors import UserError


def answer_states(llm: PreTrainedModel, embeddings: Tensor, rows: LlmInput, gradient_checkpointing: bool) -> Tensor:
    """Last hidden states (A, D) that predict the A answer tokens of rows (B, S, D).

    Args:
        llm: transformers' language model without its head.
        embeddings: what it reads.
        rows: where each row's tokens, positions and answers are.
        gradient_checkpointing: whether it recomputes its layers in the backward pass.

    Raises:
        UserError: rows of several questions, and an attention implementation that takes no packed rows.
    """
    check_lengths(llm.config, rows.position_ids.amax(dim=1) + 1)
    if implementation_of(llm) in PACKED_ATTENTION.values():
        # what is recomputed in the backward pass would no longer know which tokens it was computed for
        return last_hidden(llm, embeddings, rows, trims=not (gradient_checkpointing and torch.is_grad_enabled()))
    return _padded(llm, embeddings, rows)


def _padded(llm: PreTrainedModel, embeddings: Tensor, rows: LlmInput) -> Tensor:
    """The same by rows of equal length, for attention implementations that take no packed rows.

    They are given no mask, which each of them would read in its own way.
    """
    if rows.attention_mask() is not None:
        raise UserError(
            f"attention: {implementation_of(llm)} cannot keep the questions of a row apart; set pack_questions: false, "
            "or choose sdpa or eager"
        )
    hidden = llm(inputs_embeds=embeddings, position_ids=rows.position_ids, use_cache=False).last_hidden_state
    return hidden[rows.answer_row, rows.answer_from]


def implementation_of(llm: PreTrainedModel) -> str | None:
    """transformers' name of how an LLM attends."""
    return llm.config._attn_implementation  # pyright: ignore[reportPrivateUsage]  it has no public name


CHUNK = 1024
"""C, tokens that the LM head takes at a time."""


def score(head: nn.Module, hidden: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """What the LM head makes of each answer token.

    Where the head's weights are sharded it is called once, as a module, whatever their number: every rank must gather
    the weights equally often, and their numbers of answer tokens differ.

    Args:
        head: (..., D) to logits (..., V).
        hidden: (A, D) last hidden state where each token is predicted.
        tokens: (A,) the answer tokens.

    Returns:
        Their log-probs in float32 and the most probable tokens, both (A,).
    """
    if not is_sharded(head):
        return _scored_in_chunks(head, hidden, tokens)
    logits = cast(Callable[[Tensor], Tensor], head.forward)
    with _forward_of(head, partial(_scored_in_chunks, logits)):
        return head(hidden, tokens)


def _scored_in_chunks(logits: Callable[[Tensor], Tensor], hidden: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    if len(tokens) <= CHUNK:
        return _scored(logits, hidden, tokens)
    scored = [
        checkpoint(_scored, logits, some, these, use_reentrant=False)
        for some, these in zip(hidden.split(CHUNK), tokens.split(CHUNK), strict=True)
    ]
    log_probs, best = zip(*scored, strict=True)
    return torch.cat(log_probs), torch.cat(best)


@contextmanager
def _forward_of(module: nn.Module, forward: Callable[..., Any]) -> Generator[None]:
    """What a module computes, within its hooks, is for once something else."""
    own = vars(module).get("forward")  # where somebody has wrapped the instance's already
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


def _scored(logits: Callable[[Tensor], Tensor], hidden: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    values = logits(hidden).float()
    return -F.cross_entropy(values, tokens, reduction="none"), values.argmax(dim=1)
