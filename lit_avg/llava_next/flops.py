"""FLOPs of the LLM's forward pass, counted from its shape: what fewer visual tokens save whatever machine one has.

Counted are the matrix products (2 FLOPs per multiply-add) of LLMs whose feed-forward has a gate, as all families here
have; torch's FlopCounterMode counts the same.
Attention counts the full S x S square: a fused causal kernel does about half of it.
"""

from torch import Tensor

from lit_avg.llava_next.llm_configs import LlmShape


def llm_forward_flops(shape: LlmShape, lengths: Tensor) -> float:
    """FLOPs of reading sequences and predicting the token after each.

    Args:
        shape: of the LLM.
        lengths: tokens of each sequence, (Q,).

    Returns:
        The sum over all sequences; the LM head counts once per sequence, as in the first step of generation.
    """
    lengths = lengths.double()
    per_token = shape.num_hidden_layers * (_projections(shape) + _feed_forward(shape))
    per_pair = shape.num_hidden_layers * 2 * 2 * shape.num_attention_heads * shape.head_dim  # q·k, then weights·v
    head = 2 * shape.hidden_size * shape.vocab_size
    return (per_token * lengths + per_pair * lengths**2 + head).sum().item()


def _projections(shape: LlmShape) -> int:
    """Of q, k, v and the output, per token and layer."""
    heads = 2 * shape.num_attention_heads + 2 * shape.num_key_value_heads
    return 2 * shape.hidden_size * heads * shape.head_dim


def _feed_forward(shape: LlmShape) -> int:
    """Of gate, up and down, per token and layer."""
    return 2 * 3 * shape.hidden_size * shape.intermediate_size
