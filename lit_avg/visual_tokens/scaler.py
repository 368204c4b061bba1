"""The visual granularity scaler: one tile's tokens at every level of detail.

Source: paper, section 3.1. Alternating 1x2 and 2x1 average pooling after the connector, without parameters. One direct
pool per level gives what the stacked ones give (average, maximum and the first of each window all compose). A question
the paper leaves open is whether another pooling would be better; see `Pooling`. Where a level's grid does not divide
the next finer one there are no windows to pool, and `adaptive_average` alone makes it: torch's `adaptive_avg_pool2d`.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_avg.utils.errors import UserError
from lit_avg.visual_tokens.granularity import Granularities

Pooling = Literal["average", "max", "strided", "learned", "adaptive_average"]
"""What a coarser token is of its window: the mean, the maximum, the first token, or a mean by learned weights; or the
mean of all that its cell in a grid of any size touches."""

Window = tuple[int, int]
"""Rows and columns of finest tokens that become one."""


class GranularityScaler(nn.Module):
    """Pools the finest grid of tokens down to each coarser granularity.

    Args:
        granularities: the levels to make.
        pooling: `average` as in the paper, or another. `learned` has a weight for each place in a level's window, the
            same for all tiles and channels; it begins as the average, and stage 3 trains it with the connector.
            `adaptive_average` makes levels that divide nothing, too.

    Raises:
        UserError: there is no such pooling, or it pools windows and the levels have none.
    """

    def __init__(self, granularities: Granularities, pooling: Pooling = "average") -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise UserError(f"pooling must be one of {', '.join(get_args(Pooling))}, but is {pooling}")
        if pooling != "adaptive_average":
            _check_windows(granularities, pooling)
        self.granularities = granularities
        self.pooling: Pooling = pooling
        coarser = range(len(granularities) - 1) if pooling == "learned" else ()
        self.place_logits = nn.ParameterDict(
            {str(granularities.tokens[level]): torch.zeros(self.window(level)) for level in coarser}
        )

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
        if self.pooling == "adaptive_average":
            grid = features.unflatten(1, self.granularities.grids[-1])
            return adaptive_averages(grid, self.granularities.grids[level]).flatten(1, 2)
        plane = features.unflatten(1, self.granularities.grids[-1]).permute(0, 3, 1, 2)  # (tiles, D, side, side)
        pool = self._weighted(level) if self.pooling == "learned" else POOLINGS[self.pooling]
        return pool(plane, self.window(level)).flatten(2).transpose(1, 2)

    def window(self, level: int) -> Window:
        """What becomes one token of a level."""
        side, (rows, columns) = self.granularities.side, self.granularities.grids[level]
        return side // rows, side // columns

    def _weighted(self, level: int) -> Callable[[Tensor, Window], Tensor]:
        logits = self.place_logits[str(self.granularities.tokens[level])]
        weights = logits.flatten().softmax(dim=0).view_as(logits)

        def pool(plane: Tensor, window: Window) -> Tensor:
            windows = plane.unflatten(3, (-1, window[1])).unflatten(2, (-1, window[0]))  # (tiles, D, r, h, c, w)
            return torch.einsum("tdrhcw,hw->tdrc", windows, weights.to(plane.dtype))

        return pool


def _check_windows(granularities: Granularities, pooling: Pooling) -> None:
    for (rows, columns), (high, wide) in pairwise(granularities.grids):
        if high % rows or wide % columns:
            raise UserError(
                f"pooling: {pooling} makes a token of a whole window, but a {high}x{wide} grid has no {rows}x{columns} "
                "of them; choose `pooling: adaptive_average`, or granularities of which each divides the next"
            )


def adaptive_averages(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """A grid (tiles, rows, columns, D) averaged to (tiles, *size, D), each cell over all that it touches.

    As `adaptive_avg_pool2d`, whose gradient a GPU adds up in another order each time.
    """
    rows, columns = (
        _touched(finest, cells).to(grid.device) for finest, cells in zip(grid.shape[1:3], size, strict=True)
    )
    sums = torch.einsum("thwd,rh,cw->trcd", grid, rows.to(grid.dtype), columns.to(grid.dtype))
    return sums / (rows.sum(dim=1)[:, None] * columns.sum(dim=1)).unsqueeze(2)


def _touched(finest: int, cells: int) -> Tensor:
    """(cells, finest) of ones and zeros: which places of a side each of its cells touches."""
    place, cell = torch.arange(finest), torch.arange(cells).unsqueeze(1)
    return ((place >= cell * finest // cells) & (place * cells < (cell + 1) * finest)).int()


def _first(plane: Tensor, window: Window) -> Tensor:
    return plane[..., :: window[0], :: window[1]]


POOLINGS: dict[str, Callable[[Tensor, Window], Tensor]] = {
    "average": F.avg_pool2d,
    "max": F.max_pool2d,
    "strided": _first,
}
"""Those without parameters: of planes (tiles, D, rows, columns) and a window, one value for each window."""


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
