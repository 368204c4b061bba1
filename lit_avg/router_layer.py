"""The router's one Transformer layer, across the tokens of a tile or across the tiles of an image.

With the same parameters it is `nn.TransformerEncoderLayer` (post-norm, ReLU, feed-forward as wide as the model). It
attends along the slots as they lie in memory, and it need not read what it can pool: a level that is the average of
the finest one has the averages of its queries, keys and values.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
