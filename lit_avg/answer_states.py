"""What the LLM makes of rows, where an answer token is predicted: its last hidden states there, and nothing else."""

from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lit_avg.errors import UserError
from lit_avg.packed_rows import PACKED_ATTENTION, last_hidden
from lit_avg.sequences import LlmInput


def answer_states(llm: PreTrainedModel, embeddings: Tensor, rows: LlmInput, gradient_checkpointing: bool) -> Tensor:
    """Last hidden states (A, D) that predict the A answer tokens of rows (B, S, D).

    Args:
        llm: transformers' language model without its head.
        embeddings: what it reads.
        rows: where each row's tokens, positions and answers are.
        gradient_checkpointing: whether it recomputes its layers in the backward pass.

    Raises:
        UserError: rows of several questions reach beyond the sliding window of the LLM's attention.
    """
    config = llm.config
    window = cast(int | None, config.to_dict().get("sliding_window"))
    # transformers leaves the window to the mask, and ours has none
    fits = window is None or rows.source.shape[1] <= window
    if fits and config._attn_implementation == PACKED_ATTENTION:  # pyright: ignore[reportPrivateUsage]  it has no public name
        # what is recomputed in the backward pass would no longer know which tokens it was computed for
        return last_hidden(llm, embeddings, rows, trims=not (gradient_checkpointing and torch.is_grad_enabled()))
    return _padded(llm, embeddings, rows, window)


def _padded(llm: PreTrainedModel, embeddings: Tensor, rows: LlmInput, window: int | None) -> Tensor:
    """The same by rows of equal length, for attention implementations that take no packed rows."""
    mask = rows.attention_mask()
    if mask is not None and window is not None and (longest := int(rows.position_ids.max()) + 1) > window:
        raise UserError(
            f"a question packed with others sees {longest} tokens, but the LLM's sliding window is {window}; "
            "set pack_questions: false"
        )
    hidden = llm(
        inputs_embeds=embeddings, attention_mask=mask, position_ids=rows.position_ids, use_cache=False
    ).last_hidden_state
    return hidden[rows.answer_row, rows.answer_from]
