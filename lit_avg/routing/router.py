"""The visual granularity router: which granularity suits this image and this instruction.

Source: paper, section 3.2, Figure 2. The tokens of all granularities of a tile and the filtered instruction tokens go
through one Transformer encoder layer, an MLP gives each token N logits, and the voter, a learned weight over the
tokens, adds them up. The logits of an image are the mean over its tiles. Where the paper is silent the layer is as in
the authors' release: post-norm, ReLU, feed-forward as wide as the model, no positional or level embedding. It attends
across the tokens of a tile, as the paper says; the release attends across the tiles of an image, at each token's place
by itself, and normalises the logits.

With the same parameters the layer is `nn.TransformerEncoderLayer`. It attends along the slots as they lie in memory,
and it need not read what it can pool: a level that is the average of the finest one has the averages of its queries,
keys and values.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lit_avg.routing.instruction_filter import InstructionTokens
from lit_avg.semantics import Attention
from lit_avg.utils.arguments import check_counts, check_number
from lit_avg.utils.errors import UserError
from lit_avg.visual_tokens.granularity import Granularities
from lit_avg.visual_tokens.scaler import averages


class SlotAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` of slots with themselves; its parameters, not its `forward`."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  it is told what it needs
        self,
        slots: Tensor,
        seen: Tensor | None = None,
        tiles: Sequence[int] | None = None,
        averaged: Granularities | None = None,
    ) -> Tensor:
        """Attend across slots, or at each slot by itself across tiles.

        Args:
            slots: (tiles in all, S, D), the levels coarse to fine and then the text.
            seen: (tiles in all, S) bool, the slots that are attended to; None for all. Only across slots.
            tiles: how many tiles belong to each image, to attend across those; None to attend across slots.
            averaged: the levels, if the coarser ones are averages of the finest; None if they need not be.

        Returns:
            (tiles in all, S, D).
        """
        read = slots if averaged is None else slots[:, averaged.router_slots - averaged.finest :]
        states = F.linear(read, self.in_proj_weight, self.in_proj_bias).unflatten(2, (3, self.num_heads, self.head_dim))
        coarser = [] if averaged is None else averages(states[:, : averaged.finest], averaged)
        pieces = [*coarser, states]  # (tiles in all, S', 3, H, hd) each, S slots together
        if tiles is None:
            together = torch.cat(pieces, dim=1).permute(2, 0, 3, 1, 4)  # (3, tiles, H, S, hd)
            return self.out_proj(self._attend(together, seen).transpose(1, 2).flatten(2))
        return self.out_proj(torch.cat([self._across(piece, tiles) for piece in pieces], dim=1))

    def _across(self, states: Tensor, tiles: Sequence[int]) -> Tensor:
        """(tiles in all, S', 3, H, hd) to (tiles in all, S', D), each image by itself."""
        attended = [
            self._attend(image.permute(2, 1, 3, 0, 4), None).permute(2, 0, 1, 3).flatten(2)  # from (3, S', H, t, hd)
            for image in states.split(list(tiles))
        ]
        return torch.cat(attended)

    def _attend(self, states: Tensor, seen: Tensor | None) -> Tensor:
        """(3, rows, H, L, hd) queries, keys and values to (rows, H, L, hd)."""
        mask = None if seen is None else seen[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(states[0], states[1], states[2], mask, dropout)


class FusionLayer(nn.Module):
    """One post-norm Transformer layer, with the parameters of `nn.TransformerEncoderLayer` by the same names.

    Args:
        width: D, also that of the feed-forward part.
        heads: attention heads.
        dropout: of the attention and of each half's output.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = SlotAttention(width, heads, dropout)
        self.linear1 = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)

    def forward(
        self,
        slots: Tensor,
        seen: Tensor | None = None,
        tiles: Sequence[int] | None = None,
        averaged: Granularities | None = None,
    ) -> Tensor:
        """(tiles in all, S, D) to the same; arguments as in `SlotAttention`."""
        slots = self.norm1(slots + self.dropout1(self.self_attn(slots, seen, tiles, averaged)))
        fed = self.linear2(self.dropout(self.linear1(slots).relu()))
        return self.norm2(slots + self.dropout2(fed))


VoterInit = Literal["normal", "mean"]


class GranularityRouter(nn.Module):
    """Logits over N granularities from the tokens of all of them.

    Args:
        granularities: the levels, coarse to fine.
        width: D, that of the LLM's embeddings.
        attention: across the `tokens` of a tile, or across the `tiles` of an image.
        logit_norm: normalise each image's logits, with a learned scale and offset.
        instruction_tokens: slots for instruction tokens; fewer may be filled, more may not.
        heads: attention heads.
        dropout: in the Transformer layer.
        voter_init: `normal` starts the voter at N(0, 1) as the release does, `mean` at one over the number of tokens.
        recompute: compute the Transformer layer and the MLP again in the backward pass instead of storing what they
            made of every token.

    Raises:
        UserError: the heads do not divide the width, or a number is none that can be meant.
    """

    def __init__(
        self,
        granularities: Granularities,
        width: int,
        attention: Attention = "tokens",
        logit_norm: bool = False,
        instruction_tokens: int = 32,
        heads: int = 8,
        dropout: float = 0.1,
        voter_init: VoterInit = "normal",
        recompute: bool = False,
    ) -> None:
        super().__init__()
        check_counts({"router: instruction_tokens": instruction_tokens}, least=0)
        check_number("router: dropout", dropout, least=0, below=1)
        if heads < 1 or width % heads:
            raise UserError(f"router: heads must divide the LLM's width of {width}, but is {heads}")
        levels, slots = len(granularities), granularities.router_slots + instruction_tokens
        self.instruction_tokens = instruction_tokens
        self.attention: Attention = attention
        self.granularities = granularities
        self.recompute = recompute
        self.fusion = FusionLayer(width, heads, dropout)
        hidden, ballot = nn.Linear(width, width), nn.Linear(width, levels)
        nn.init.kaiming_normal_(hidden.weight)
        nn.init.kaiming_normal_(ballot.weight)
        self.mlp = nn.Sequential(hidden, nn.GELU(), ballot)
        self.voter = nn.Parameter(torch.randn(slots) if voter_init == "normal" else torch.full((slots,), 1 / slots))
        self.norm = nn.LayerNorm(levels) if logit_norm else nn.Identity()

    def forward(
        self, levels: Sequence[Tensor], instruction: InstructionTokens, tiles: Sequence[int], averaged: bool = False
    ) -> Tensor:
        """Logits of each question, averaged over the tiles of its image.

        Args:
            levels: N tensors (tiles in all, tokens of the level, D), one question's tiles after the other's.
            instruction: the filtered tokens of each of the Q questions, at most `instruction_tokens` slots.
            tiles: Q numbers, how many of the tiles belong to each question.
            averaged: the coarser levels are averages of the finest, which spares work.

        Returns:
            (Q, N), coarse to fine.

        Raises:
            UserError: more instruction tokens than the router has slots.
        """
        self.check_slots(instruction.valid.shape[1])
        unused = self.instruction_tokens - instruction.valid.shape[1]
        heard = F.pad(instruction.embeddings, (0, 0, 0, unused))
        valid = F.pad(instruction.valid, (0, unused))
        question = torch.arange(len(tiles)).repeat_interleave(torch.tensor(tiles)).to(heard.device)
        tokens = torch.cat([*levels, heard[question]], dim=1)  # (tiles, slots, D)
        seen = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
        seen[:, tokens.shape[1] - self.instruction_tokens :] = valid[question]
        votes = self._judged(tokens, seen, tiles, averaged)  # (tiles, N)
        totals = votes.new_zeros(len(tiles), votes.shape[1]).index_add(0, question, votes)
        return self.norm(totals / torch.tensor(tiles, device=totals.device).unsqueeze(1))

    def _judged(self, tokens: Tensor, seen: Tensor, tiles: Sequence[int], averaged: bool) -> Tensor:
        """Each tile's logits (tiles, N) from its tokens."""

        def judge(slots: Tensor) -> Tensor:
            return self.votes(self.fuse(slots, seen, tiles, averaged), seen)

        if self.recompute and torch.is_grad_enabled():
            return checkpoint(judge, tokens, use_reentrant=False)
        return judge(tokens)

    def fuse(self, tokens: Tensor, seen: Tensor, tiles: Sequence[int], averaged: bool = False) -> Tensor:
        """The Transformer layer on tokens (tiles, slots, D); those not `seen` (tiles, slots) are not attended to."""
        levels = self.granularities if averaged else None
        if self.attention == "tokens":
            return self.fusion(tokens, None if bool(seen.all()) else seen, None, levels)
        # Each slot attends to itself in the image's other tiles: an empty one only to empty ones, so there is no mask.
        return self.fusion(tokens, None, tiles, levels)

    def votes(self, fused: Tensor, seen: Tensor) -> Tensor:
        """Fused tokens (tiles, slots, D), those marked in `seen` (tiles, slots), to each tile's logits (tiles, N)."""
        ballots = self.mlp(fused)  # (tiles, slots, N)
        return torch.einsum("lsn,ls->ln", ballots, self.voter * seen)

    def check_slots(self, k: int) -> None:
        """Refuse a filter that keeps more instruction tokens than this router was built for.

        Raises:
            UserError: k is larger than `instruction_tokens`.
        """
        if k > self.instruction_tokens:
            raise UserError(
                f"the instruction filter keeps k = {k} tokens, but the router was built for {self.instruction_tokens}; "
                f"lower k or train a router with instruction_tokens: {k}"
            )
