"""Rows of unlike length one behind the other, so that the LLM computes no padding, and the attention in them.

All that is done token by token sees one sequence of T tokens. Attention takes it apart again into blocks of rows of the
same shape, each with a kernel of its own; a layer with a sliding window sees no further than that, counted by positions
in a question's own view. In the last layer, whose output is read only where an answer token is predicted, everything
but keys and values is computed for those positions alone. Attention itself has transformers' own form: by torch's fused
kernel, or step by step where a layer caps its scores (Gemma-2), which no fused kernel of torch's can do.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lit_avg.batch import PADDING, PREFIX
from lit_avg.llava_next.llm_input import LlmInput


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


PACKED_ATTENTION = {"sdpa": "packed_fused", "eager": "packed_eager"}
"""Names that transformers knows these two by, as they are here: as its own, unless called with packed rows. None has
`sdpa` in it, which transformers refuses for LLMs that cap their scores."""

TOKEN_BY_TOKEN = ("self_attn.q_proj", "self_attn.o_proj", "mlp")
"""What of an LLM's layer works on one token at a time, beside keys and values, which others read."""


@dataclass(frozen=True)
class Masks:
    """Who sees whom in a block, bool."""

    first: Tensor | None  # (R, 1, P, S) of the tokens that see what is before them; None for plain causal attention
    others: Tensor | None  # (R, 1, S - P, S); None if there are no others
    wanted: Tensor  # (R, 1, W, S) of the columns that are read in the end


@dataclass(frozen=True)
class Block:
    """R rows of S tokens each; the first P of a row see what is before them, the others what a mask says."""

    begin: int  # place of the first token among the T
    shared: int  # P; S for rows of a single question, 0 for several questions about no image
    question: Tensor  # (R, S) as in `Batch`
    position: Tensor  # (R, S) as in `LlmInput.position_ids`
    wanted: Tensor  # (R, W) columns that are read in the end, filled up with any other column
    real: Tensor  # (R, W) bool: not filled up
    known: dict[int | None, Masks] = field(default_factory=dict[int | None, Masks])  # by sliding window

    @property
    def rows(self) -> int:
        """R."""
        return self.question.shape[0]

    @property
    def length(self) -> int:
        """S."""
        return self.question.shape[1]

    def of(self, states: Tensor) -> Tensor:
        """This block's queries, keys or values (R, H, S, hd) of (1, H, T, hd)."""
        own = states[0].transpose(0, 1)[self.begin : self.begin + self.rows * self.length]
        return own.unflatten(0, (self.rows, self.length)).transpose(1, 2)

    def masks(self, window: int | None) -> Masks:
        """Who sees whom where none sees further back than a sliding window."""
        window = None if window is None or window >= self.length else window
        if window not in self.known:
            columns = torch.arange(self.length, device=self.question.device).expand(self.rows, -1)
            first, others = columns[:, : self.shared], columns[:, self.shared :]
            self.known[window] = Masks(
                first=None if window is None else self._seen(first, window),
                others=self._seen(others, window) if self.shared < self.length else None,
                wanted=self._seen(self.wanted, window),
            )
        return self.known[window]

    def _seen(self, columns: Tensor, window: int | None) -> Tensor:
        """(R, 1, C, S): what the tokens in these columns (R, C) see of their rows, nothing that comes later."""
        question, position = self.question, self.position
        own = question.gather(1, columns).unsqueeze(2) == question.unsqueeze(1)
        earlier = torch.arange(self.length, device=question.device) <= columns.unsqueeze(2)
        seen = (own | (question == PREFIX).unsqueeze(1)) & earlier
        if window is not None:
            seen = seen & (position.gather(1, columns).unsqueeze(2) - position.unsqueeze(1) < window)
        return seen.unsqueeze(1)


@dataclass(frozen=True)
class PackedRows:
    """Where the T tokens of B rows are found, how they attend, and which of them are read."""

    tokens: Tensor  # (T,) index into the (B, S) tokens of the rows, flattened
    blocks: tuple[Block, ...]  # in the order of their tokens
    read: Tensor  # (R,) places among the T that predict at least one answer token, block by block
    answer: Tensor  # (A,) which of those R predicts each answer token
    last_layer: int | None = None  # the layer that is computed where it is read only; None for no such layer


class RowsMask(Tensor):
    """Who sees whom, told by packed rows: an attention mask that every LLM hands to its layers, and these to attention.

    It is empty, and has four dimensions, so that transformers makes none of its own.
    """

    rows: PackedRows

    @staticmethod
    def of(rows: PackedRows) -> "RowsMask":
        """The mask of some rows."""
        mask = torch.empty(1, 1, 0, 0, dtype=torch.bool, device=rows.tokens.device).as_subclass(RowsMask)
        mask.rows = rows
        return mask


def last_hidden(llm: PreTrainedModel, embeddings: Tensor, rows: LlmInput, trims: bool) -> Tensor:
    """The hidden state (A, D) that predicts each answer token.

    Args:
        llm: a decoder of transformers whose attention is one of `PACKED_ATTENTION`.
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
            attention_mask=RowsMask.of(packed),
            position_ids=rows.position_ids.flatten()[packed.tokens].unsqueeze(0),
            use_cache=False,
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
        position = rows.position_ids[torch.tensor(members, device=device), :length]
        blocks.append(_block(begin, question[members, :length], position, wanted[members, :length], prefix))
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


def _block(begin: int, question: Tensor, position: Tensor, wanted: Tensor, shared: int) -> Block:
    """Of rows with the same length: `question` as in `Batch`, positions, and whether a token is read, all (R, S)."""
    columns = wanted.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, : int(wanted.sum(dim=1).max())]
    return Block(
        begin=begin,
        shared=shared,
        question=question.to(position.device),
        position=position,
        wanted=columns.to(position.device),
        real=wanted.gather(1, columns).to(position.device),
    )


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    sliding_window: int | None = None,
    function: AttentionFunction = ATTENTION_FUNCTIONS["sdpa"],
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention in transformers' own form: (1, H, T, hd) of packed rows to (1, T, H, hd).

    Args:
        module: a layer's attention.
        query: of all tokens, as are the next two.
        key: with fewer heads, maybe.
        value: as many as keys.
        attention_mask: tells how the rows are packed; if it is another, `function` is called as by transformers.
        sliding_window: how far back this layer sees; in `attention_mask` already, where that counts.
        function: attends.
        kwargs: dropout, scaling and what else there is for `function`.
    """
    if not isinstance(attention_mask, RowsMask):
        return function(module, query, key, value, attention_mask, **kwargs)
    rows = attention_mask.rows

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """(R, H, Q, hd) by (R, H, K, hd) to (R, Q, H, hd); causal without a mask."""
        return function(module, q, k, v, mask, is_causal=True, **kwargs)[0]

    outputs: list[Tensor] = []
    last = rows.last_layer is not None and module.layer_idx == rows.last_layer
    for block in rows.blocks:
        q, k, v, masks = block.of(query), block.of(key), block.of(value), block.masks(sliding_window)
        if last:
            columns = block.wanted[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3])
            outputs.append(attend(q.gather(2, columns), k, v, masks.wanted)[block.real])
            continue
        first, parts = slice(block.shared), list[Tensor]()
        if block.shared:
            seen = None if masks.first is None else masks.first[..., first]
            parts.append(attend(q[:, :, first], k[:, :, first], v[:, :, first], seen))
        if masks.others is not None:
            parts.append(attend(q[:, :, block.shared :], k, v, masks.others))
        outputs.append(torch.cat(parts, dim=1).flatten(0, 1))
    together = torch.cat(outputs)
    if last:
        together = together.new_zeros(len(rows.tokens), *together.shape[1:]).index_copy(0, rows.read, together)
    return together.unsqueeze(0), None


for _plain, _name in PACKED_ATTENTION.items():
    AttentionInterface.register(_name, partial(packed_attention, function=ATTENTION_FUNCTIONS[_plain]))
    AttentionMaskInterface.register(_name, sdpa_mask)


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
