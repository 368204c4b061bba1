"""Rows of unlike length one behind the other, so that the LLM computes no padding.

All that is done token by token sees one sequence of T tokens. Attention takes it apart again into blocks of rows of the
same shape, each with torch's own fused kernel. In the last layer, whose output is read only where an answer token is
predicted, everything but keys and values is computed for those positions alone.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lit_avg.batch import PADDING, PREFIX
from lit_avg.sequences import LlmInput

PACKED_ATTENTION = "packed_sdpa"
"""Name among transformers' attention implementations: `sdpa`, unless it is called with packed rows."""

TOKEN_BY_TOKEN = ("self_attn.q_proj", "self_attn.o_proj", "mlp")
"""What of an LLM's layer works on one token at a time, beside keys and values, which others read."""


@dataclass(frozen=True)
class Block:
    """R rows of S tokens each; the first P of a row see what is before them, the others what a mask says."""

    begin: int  # place of the first token among the T
    rows: int  # R
    length: int  # S
    shared: int  # P; S for rows of a single question, 0 for several questions about no image
    mask: Tensor | None  # (R, 1, S - P, S) bool, who of the others sees whom; None if there are none
    wanted: Tensor  # (R, W) columns that are read in the end, filled up with any other column
    wanted_mask: Tensor  # (R, 1, W, S) bool, what they see
    real: Tensor  # (R, W) bool: not filled up

    def of(self, states: Tensor) -> Tensor:
        """This block's queries, keys or values (R, H, S, hd) of (1, H, T, hd)."""
        own = states[0].transpose(0, 1)[self.begin : self.begin + self.rows * self.length]
        return own.unflatten(0, (self.rows, self.length)).transpose(1, 2)


@dataclass(frozen=True)
class PackedRows:
    """Where the T tokens of B rows are found, how they attend, and which of them are read."""

    tokens: Tensor  # (T,) index into the (B, S) tokens of the rows, flattened
    blocks: tuple[Block, ...]  # in the order of their tokens
    read: Tensor  # (R,) places among the T that predict at least one answer token, block by block
    answer: Tensor  # (A,) which of those R predicts each answer token
    last_layer: int | None = None  # the layer that is computed where it is read only; None for no such layer


def last_hidden(llm: PreTrainedModel, embeddings: Tensor, rows: LlmInput, trims: bool) -> Tensor:
    """The hidden state (A, D) that predicts each answer token.

    Args:
        llm: a decoder of transformers whose attention is `PACKED_ATTENTION`.
        embeddings: (B, S, D) of the rows.
        rows: which tokens they are.
        trims: the last layer is computed where it is read only.
    """
    layers = cast(nn.ModuleList, llm.layers)
    packed = packed_rows(rows, last_layer=len(layers) - 1 if trims else None)
    trimmed = [module for name, module in layers[-1].named_modules() if name in TOKEN_BY_TOKEN] if trims else []
    with computed_only_at(packed.read, trimmed, cast(nn.Module, llm.norm)):
        hidden = llm(
            inputs_embeds=embeddings.flatten(0, 1)[packed.tokens].unsqueeze(0),
            attention_mask=embeddings.new_empty(1, 1, 0, 0),  # of four dimensions: transformers is to make none
            position_ids=rows.position_ids.flatten()[packed.tokens].unsqueeze(0),
            use_cache=False,
            rows=packed,
        ).last_hidden_state
    return hidden[0, packed.answer]


def packed_rows(rows: LlmInput, last_layer: int | None) -> PackedRows:
    """Lay the rows of an input behind one another, rows of the same shape together."""
    question, device = rows.question.cpu(), rows.question.device
    lengths = (question != PADDING).sum(dim=1).tolist()
    shared = _shared(question, lengths)
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], shared[row]))
    wanted = torch.zeros_like(question, dtype=torch.bool)
    wanted[rows.answer_row.cpu(), rows.answer_from.cpu()] = True
    blocks, begin = list[Block](), 0
    for (length, prefix), group in groupby(order, key=lambda row: (lengths[row], shared[row])):
        members = list(group)
        blocks.append(_block(begin, question[members, :length], wanted[members, :length], prefix, device))
        begin += len(members) * length
    tokens = torch.cat([row * question.shape[1] + torch.arange(lengths[row]) for row in order])
    place = torch.zeros(question.numel(), dtype=torch.long).index_copy(0, tokens, torch.arange(len(tokens)))
    answers = place[(rows.answer_row * question.shape[1] + rows.answer_from).cpu()]
    read, answer = answers.unique(return_inverse=True)
    return PackedRows(tokens.to(device), tuple(blocks), read.to(device), answer.to(device), last_layer)


def _shared(question: Tensor, lengths: Sequence[int]) -> list[int]:
    """Of each row, the tokens that plain causal attention serves: its prefix, or all if there is but one question."""
    first = question.masked_fill(question < 0, torch.iinfo(torch.int64).max).amin(dim=1)
    single = question.amax(dim=1) <= first
    prefix = (question == PREFIX).sum(dim=1)
    return torch.where(single, torch.tensor(lengths), prefix).tolist()


def _block(begin: int, question: Tensor, wanted: Tensor, shared: int, device: torch.device) -> Block:
    """Of rows with the same length: `question` as in `Batch` and whether a token is read, both (R, S)."""
    rows, length = question.shape
    columns = wanted.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, : int(wanted.sum(dim=1).max())]
    others = torch.arange(shared, length).expand(rows, -1)
    return Block(
        begin=begin,
        rows=rows,
        length=length,
        shared=shared,
        mask=_seen(question, others).to(device) if shared < length else None,
        wanted=columns.to(device),
        wanted_mask=_seen(question, columns).to(device),
        real=wanted.gather(1, columns).to(device),
    )


def _seen(question: Tensor, columns: Tensor) -> Tensor:
    """(R, 1, C, S) bool: what the tokens in these columns (R, C) see of their rows (R, S), nothing that comes later."""
    own = question.gather(1, columns).unsqueeze(2) == question.unsqueeze(1)
    earlier = torch.arange(question.shape[1]) <= columns.unsqueeze(2)
    return ((own | (question == PREFIX).unsqueeze(1)) & earlier).unsqueeze(1)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    rows: PackedRows | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention in transformers' own form: (1, H, T, hd) of packed `rows` to (1, T, H, hd); without them, `sdpa`."""
    if rows is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """(R, H, Q, hd) by (R, H, K, hd) to (R, Q, H, hd); causal without a mask."""
        return sdpa_attention_forward(module, q, k, v, mask, dropout, scaling, is_causal=True)[0]

    outputs: list[Tensor] = []
    last = rows.last_layer is not None and module.layer_idx == rows.last_layer
    for block in rows.blocks:
        q, k, v = block.of(query), block.of(key), block.of(value)
        if last:
            columns = block.wanted[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3])
            outputs.append(attend(q.gather(2, columns), k, v, block.wanted_mask)[block.real])
            continue
        first, parts = slice(block.shared), list[Tensor]()
        if block.shared:
            parts.append(attend(q[:, :, first], k[:, :, first], v[:, :, first], None))
        if block.mask is not None:
            parts.append(attend(q[:, :, block.shared :], k, v, block.mask))
        outputs.append(torch.cat(parts, dim=1).flatten(0, 1))
    together = torch.cat(outputs)
    if last:
        together = together.new_zeros(len(rows.tokens), *together.shape[1:]).index_copy(0, rows.read, together)
    return together.unsqueeze(0), None


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, sdpa_mask)


@contextmanager
def computed_only_at(places: Tensor, modules: Sequence[nn.Module], norm: nn.Module) -> Generator[None]:
    """Within this, modules that work token by token are given some of the T tokens alone.

    Args:
        places: (R,) of the tokens in (1, T, D).
        modules: give zeros at all other tokens.
        norm: gives these tokens alone, (1, R, D).
    """

    def gather(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0].index_select(1, places),)

    def gather_from(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        tokens[module] = inputs[0].shape[1]
        return gather(module, inputs)

    def scatter(module: nn.Module, _: tuple[Tensor], output: Tensor) -> Tensor:
        zeros = output.new_zeros(1, tokens.pop(module), output.shape[2])
        return zeros.index_copy(1, places, output)

    tokens = dict[nn.Module, int]()
    hooks = [norm.register_forward_pre_hook(gather)]
    for module in modules:
        hooks += [module.register_forward_pre_hook(gather_from), module.register_forward_hook(scatter)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
