"""The visual granularity scaler: one tile's tokens at every level of detail.

Source: paper, section 3.1. Alternating 1x2 and 2x1 average pooling after the connector, without parameters. One direct
pool per level gives what the stacked ones give (average and maximum both compose).
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_avg.errors import UserError
from lit_avg.granularity import Granularities

Pooling = Literal["average", "max"]

_POOLINGS = {"average": F.avg_pool2d, "max": F.max_pool2d}


class GranularityScaler(nn.Module):
    """Pools the finest grid of tokens down to each coarser granularity.

    Args:
        granularities: the levels to make.
        pooling: `average` as in the paper, or `max`.
    """

    def __init__(self, granularities: Granularities, pooling: Pooling = "average") -> None:
        super().__init__()
        if pooling not in _POOLINGS:
            raise UserError(f"pooling must be one of {', '.join(_POOLINGS)}, but is {pooling}")
        self.granularities = granularities
        self.pooling: Pooling = pooling

    def forward(self, features: Tensor) -> list[Tensor]:
        """Tokens of the finest grid, row by row, to tokens of every level.

        Args:
            features: (tiles, finest tokens, D).

        Returns:
            N tensors (tiles, tokens of the level, D), coarse to fine; the last one is `features` itself.
        """
        return [self.pool(features, level) for level in range(len(self.granularities))]

    def pool(self, features: Tensor, level: int) -> Tensor:
        """(tiles, finest tokens, D) to (tiles, tokens of the level, D)."""
        if level == len(self.granularities) - 1:
            return features
        side, (rows, columns) = self.granularities.side, self.granularities.grids[level]
        plane = features.unflatten(1, (side, side)).permute(0, 3, 1, 2)  # (tiles, D, side, side)
        window = (side // rows, side // columns)
        return _POOLINGS[self.pooling](plane, window).flatten(2).transpose(1, 2)


def averages(finest: Tensor, granularities: Granularities) -> list[Tensor]:
    """Whatever every token of the finest level has, averaged for the tokens of the coarser ones.

    Args:
        finest: (tiles, finest tokens, ...).
        granularities: the levels.

    Returns:
        (tiles, tokens of the level, ...) of all levels but the finest, coarse to fine.
    """
    plane, levels = finest.unflatten(1, granularities.grids[-1]), list[Tensor]()
    for rows, columns in granularities.grids[-2::-1]:
        high, wide = plane.shape[1] // rows, plane.shape[2] // columns
        cells = [plane[:, row::high, column::wide] for row in range(high) for column in range(wide)]
        plane = torch.stack(cells).mean(dim=0) if len(cells) > 2 else (cells[0] + cells[1]) / 2
        levels.insert(0, plane.flatten(1, 2))
    return levels
