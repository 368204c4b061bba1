"""Tiles to one visual sequence, at any granularity.

Source: LLaVA-NeXT's `anyres` with `spatial_unpad`. The global view's tokens go first; the other tiles are put back
into one plane, the padding is cut off, and a newline token ends each row. A visual sequence is described by *where its
tokens come from*: indices into the image's tokens, tile by tile, with `NEWLINE` for the newline token. Whoever needs
only the number of tokens asks `count_visual_tokens`.

At the finest level this is HF's `pack_image_features`. At the others the padding is cut by its true share of the
plane; the release compares the image's aspect ratio with that of the token grid, which is not square at every level
(`Unpad` chooses).
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from lit_avg.semantics import Unpad
from lit_avg.visual_tokens.granularity import Granularities

NEWLINE = -1
"""Index that stands for the newline token in a visual sequence."""


@dataclass(frozen=True)
class VisualLayout:
    """How images become visual sequences in one model: all that counts or places visual tokens asks this.

    Args:
        granularities: the levels, coarse to fine.
        unpad: how padding is cut off.
    """

    granularities: Granularities
    unpad: Unpad = "true share"

    def sequence(self, tile_grid: tuple[int, int], image_size: tuple[int, int], level: int) -> Tensor:
        """`visual_sequence` at the level-th granularity."""
        grids = self.granularities.grids
        return visual_sequence(tile_grid, image_size, grids[level], grids[-1], self.unpad)

    def count(self, tile_grid: tuple[int, int], image_size: tuple[int, int], level: int) -> int:
        """`count_visual_tokens` at the level-th granularity."""
        grids = self.granularities.grids
        return count_visual_tokens(tile_grid, image_size, grids[level], grids[-1], self.unpad)


@lru_cache(maxsize=4096)
def visual_sequence(
    tile_grid: tuple[int, int],
    image_size: tuple[int, int],
    level: tuple[int, int],
    finest: tuple[int, int],
    unpad: Unpad = "true share",
) -> Tensor:
    """Where the tokens of one image's visual sequence come from.

    Args:
        tile_grid: rows and columns of tiles; (0, 0) for the global view alone.
        image_size: height and width of the original image in pixels.
        level: rows and columns of tokens of one tile at this granularity.
        finest: the same at the finest granularity, where a token is as high as wide.
        unpad: how padding is cut off.

    Returns:
        (count_visual_tokens(...),) int64: index into (tiles, rows, columns) flattened, or `NEWLINE`.
        It is shared between calls: do not write to it.
    """
    rows, columns = level
    per_tile = rows * columns
    global_view = torch.arange(per_tile)
    if tile_grid == (0, 0):
        return torch.cat([global_view, torch.tensor([NEWLINE])])
    tile_rows, tile_columns = tile_grid
    tiles = torch.arange(per_tile, per_tile * (1 + tile_rows * tile_columns))
    plane = tiles.view(tile_rows, tile_columns, rows, columns).transpose(1, 2).reshape(tile_rows * rows, -1)
    (top, bottom), (left, right) = _image_in_plane(tile_grid, image_size, level, finest, unpad)
    image = plane[top:bottom, left:right]
    newlines = torch.full((len(image), 1), NEWLINE)
    return torch.cat([global_view, torch.cat([image, newlines], dim=1).flatten()])


def count_visual_tokens(
    tile_grid: tuple[int, int],
    image_size: tuple[int, int],
    level: tuple[int, int],
    finest: tuple[int, int],
    unpad: Unpad = "true share",
) -> int:
    """Length of `visual_sequence` with the same arguments: global view, unpadded plane and a newline per row."""
    rows, columns = level
    if tile_grid == (0, 0):
        return rows * columns + 1
    (top, bottom), (left, right) = _image_in_plane(tile_grid, image_size, level, finest, unpad)
    return rows * columns + (bottom - top) * (right - left + 1)


def _image_in_plane(
    tile_grid: tuple[int, int],
    image_size: tuple[int, int],
    level: tuple[int, int],
    finest: tuple[int, int],
    unpad: Unpad,
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows (top, bottom) and columns (left, right) of the plane at `level` that show the image, not its padding."""
    height, width = image_size
    plane_rows, plane_columns = tile_grid[0] * level[0], tile_grid[1] * level[1]
    if unpad == "token grid":  # LLaVA's own unpad_image, told that the plane is as high and wide as it has tokens
        if width / height > plane_columns / plane_rows:
            return _centred(plane_rows, int(height * (plane_columns / width))), (0, plane_columns)
        return (0, plane_rows), _centred(plane_columns, int(width * (plane_rows / height)))
    plane_height, plane_width = tile_grid[0] * finest[0], tile_grid[1] * finest[1]
    if width / height > plane_width / plane_height:
        shown = height * (plane_width / width) * (plane_rows / plane_height)
        return _centred(plane_rows, shown), (0, plane_columns)
    shown = width * (plane_height / height) * (plane_columns / plane_width)
    return (0, plane_rows), _centred(plane_columns, shown)


def _centred(available: int, shown: float) -> tuple[int, int]:
    """Begin and end of the `shown` tokens in the middle of `available` ones, rounded as HF rounds them."""
    padding = (available - int(round(shown, 7))) // 2
    return padding, available - padding
