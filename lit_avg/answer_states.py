"""What the LLM makes of rows, where an answer token is predicted: its last hidden states there, and nothing else."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lit_avg.llm_configs import check_lengths
from lit_avg.packed_rows import PACKED_ATTENTION, last_hidden
from lit_avg.sequences import LlmInput
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
