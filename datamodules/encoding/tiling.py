"""Any-resolution tiling: an image to a global view and tiles of the encoder's own size.

Source: LLaVA-NeXT's `anyres`. The results equal transformers' `LlavaNextImageProcessorPil` bit for bit (a test holds
it). Tiles stay bytes until they are where the encoder runs: a quarter of the memory to copy from process to process
and to the device, and nothing for the processes that read to do.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lit_avg.utils.arguments import check_counts, check_numbers
from lit_avg.utils.errors import UserError

CHANNELS = 3

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

LLAVA_NEXT_PLANES = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
"""(height, width) of the planes that LLaVA-NeXT fits images into, for tiles of 336 pixels."""


class TiledImage(NamedTuple):
    """What the encoder sees of an image."""

    shades: NDArray[np.uint8]  # (1 + rows x columns, S, S, 3), global view first, then row by row
    tile_grid: tuple[int, int]  # rows and columns of tiles, (0, 0) for the global view alone
    image_size: tuple[int, int]  # height and width of the image


class Tiling:
    """Cuts images into tiles.

    Args:
        tile_size: S, the encoder's native size in pixels.
        grid_pinpoints: (height, width) of the planes an image may be fitted into; None for the global view alone.

    Raises:
        UserError: a pinpoint is not made of whole tiles, or there is none.
    """

    def __init__(self, tile_size: int, grid_pinpoints: Sequence[Sequence[int]] | None) -> None:
        check_counts({"tile_size": tile_size})
        if grid_pinpoints is not None and not grid_pinpoints:
            raise UserError("grid_pinpoints: [] is no plane to fit an image into; write null for a single view")
        for pinpoint in grid_pinpoints or ():
            if len(pinpoint) != 2:
                raise UserError(f"grid_pinpoints: {list(pinpoint)} is no pair of a height and a width in pixels")
        self.tile_size = tile_size
        self.planes = [(height, width) for height, width in grid_pinpoints or ()]
        for plane in self.planes:
            if not all(side > 0 and side % tile_size == 0 for side in plane):
                raise UserError(f"grid_pinpoints: {list(plane)} is not made of whole tiles of {tile_size} pixels")

    def __call__(self, image: Image.Image) -> TiledImage:
        """Tile an RGB image."""
        side, size = self.tile_size, (image.height, image.width)
        plane = best_plane(size, self.planes) if self.planes else (0, 0)
        grid = plane[0] // side, plane[1] // side
        views = np.zeros((1 + grid[0] * grid[1], side, side, 3), np.uint8)
        views[0] = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
        if self.planes:
            _lay(image, views[1:].reshape(*grid, side, side, 3))
        return TiledImage(views, grid, size)


class Normalisation:
    """From shades, 0 to 255, to what the encoder sees.

    Args:
        mean: what is subtracted from each channel, shades being 0 to 1.
        std: what each channel is divided by then.

    Raises:
        UserError: there are not three of each, or one cannot be divided by.
    """

    def __init__(self, mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD) -> None:
        for name, values in {"image_mean": mean, "image_std": std}.items():
            if len(values) != CHANNELS:
                raise UserError(f"{name} needs a number for each of red, green and blue, but is {list(values)}")
        check_numbers("image_mean", mean)
        check_numbers("image_std", std, above=0)
        shade = (np.arange(256) * (1 / 255)).astype(np.float32)
        table = (shade[:, None] - np.array(mean, np.float32)) / np.array(std, np.float32)
        self.table = torch.from_numpy(np.ascontiguousarray(table.T))  # (3, 256)
        self.mean, self.std = (torch.tensor(values).view(CHANNELS, 1, 1) for values in (mean, std))

    def __call__(self, shades: Tensor) -> Tensor:
        """(tiles, S, S, 3) uint8 to (tiles, 3, S, S) float32, on the device where it lies."""
        table, normalised = self.table.to(shades.device), list[Tensor]()
        for channel in range(3):
            of_channel = shades[..., channel].int()
            normalised.append(table[channel].index_select(0, of_channel.flatten()).view_as(of_channel))
        return torch.stack(normalised, dim=1)

    def undo(self, pixel_values: Tensor) -> Tensor:
        """(..., 3, S, S) as the encoder sees it, on the CPU, to shades of 0 to 1."""
        return pixel_values * self.std + self.mean


def best_plane(size: tuple[int, int], planes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The plane that keeps most of the image's own pixels; of several such, the smallest.

    Args:
        size: height and width of the image.
        planes: heights and widths to choose from.
    """
    height, width = size

    def merit(plane: tuple[int, int]) -> tuple[int, int]:
        scale = min(plane[1] / width, plane[0] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - plane[0] * plane[1]

    return max(planes, key=merit)


def _lay(image: Image.Image, tiles: NDArray[np.uint8]) -> None:
    """Scale an image into a plane and centre it there on black: (rows, columns, S, S, 3) black tiles, written to."""
    rows, columns, side = tiles.shape[:3]
    plane = rows * side, columns * side
    across, down = plane[1] / image.width, plane[0] / image.height
    if across < down:
        height, width = min(math.ceil(image.height * across), plane[0]), plane[1]
    else:
        height, width = plane[0], min(math.ceil(image.width * down), plane[1])
    top, left = (plane[0] - height) // 2, (plane[1] - width) // 2
    fitted = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    for row, column in np.ndindex(rows, columns):
        down_here, in_tile_down = _overlap(row * side, side, top, height)
        across_here, in_tile_across = _overlap(column * side, side, left, width)
        tiles[row, column, in_tile_down, in_tile_across] = fitted[down_here, across_here]


def _overlap(begin: int, side: int, margin: int, length: int) -> tuple[slice, slice]:
    """Where a tile and the fitted image meet along one axis of the plane: within the image, and within the tile."""
    first = max(begin, margin)
    last = max(first, min(begin + side, margin + length))  # they may not meet at all
    return slice(first - margin, last - margin), slice(first - begin, last - begin)
