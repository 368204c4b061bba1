"""What every patch of an image's views shows: the truth stage 0 learns from, as the tiling of images presents it.

An image's views are the global view, in which the whole image is stretched to one tile, and the tiles of the
padded image, row by row.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from datamodules.jersey.drawing import CELL, COLOURS, Scene
from lit_avg.batch import NO_DIGIT, UNLABELLED

SIDE = 8
"""Patches of a tile's side; a patch of a tile is as large as a cell."""

GRID_PINPOINTS = ((SIDE * CELL, 2 * SIDE * CELL), (2 * SIDE * CELL, SIDE * CELL))
"""Height and width of the planes that images are tiled in: two tiles side by side, or one above the other."""

Number = TypeVar("Number", np.int64, np.float32)

MEAN_BRIGHTNESS = 0.6
"""What a jersey or a board counts as when a quarter's brightness is judged, so that it does not tip the scale."""

_SHOWN = 0.45  # share of a patch that a digit or jersey must fill to count: half, with room for rounding


@dataclass(frozen=True)
class Cells:
    """Contents of cells or patches; every array is (..., rows, columns)."""

    tens: NDArray[np.int64]
    units: NDArray[np.int64]
    jersey: NDArray[np.int64]
    colour: NDArray[np.int64]
    brightness: NDArray[np.float32]


def tile_grid(shape: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of tiles for an image of so many cells."""
    return (1, 2) if shape[1] > shape[0] else (2, 1)


def cells_of(scene: Scene) -> Cells:
    """What stands in every cell of an image."""
    shape = scene.crowd.shape
    tens, units = np.full(shape, NO_DIGIT), np.full(shape, NO_DIGIT)
    jersey, colour, brightness = np.zeros(shape, dtype=np.int64), scene.crowd.copy(), scene.brightness.copy()
    for player in scene.players:
        rows, columns = player.place
        middle, digits = player.column + player.size, slice(player.row, player.row + player.size)
        tens[digits, player.column : middle], units[digits, middle : columns.stop] = divmod(player.number, 10)
        jersey[rows, columns], colour[rows, columns] = player.worn, player.colour if player.worn else UNLABELLED
        brightness[rows, columns] = MEAN_BRIGHTNESS
    return Cells(tens, units, jersey, colour, brightness)


def patches_of(cells: Cells) -> Cells:
    """What every patch of the image's views shows: (views, SIDE, SIDE), the global view first."""
    whole, tiles = _global_view(cells), _tiles(cells)
    return Cells(
        tens=np.concatenate([whole.tens[None], tiles.tens]),
        units=np.concatenate([whole.units[None], tiles.units]),
        jersey=np.concatenate([whole.jersey[None], tiles.jersey]),
        colour=np.concatenate([whole.colour[None], tiles.colour]),
        brightness=np.concatenate([whole.brightness[None], tiles.brightness]),
    )


def _tiles(cells: Cells) -> Cells:
    """The padded image, cut into tiles: (tiles, SIDE, SIDE)."""

    def cut(values: NDArray[Number], filling: float) -> NDArray[Number]:
        rows, columns = tile_grid((values.shape[0], values.shape[1]))
        margins = [(whole - part) // 2 for whole, part in zip((rows * SIDE, columns * SIDE), values.shape, strict=True)]
        padded = np.pad(values, [(margin, margin) for margin in margins], constant_values=filling)
        return padded.reshape(rows, SIDE, columns, SIDE).swapaxes(1, 2).reshape(-1, SIDE, SIDE)

    return Cells(
        cut(cells.tens, NO_DIGIT),
        cut(cells.units, NO_DIGIT),
        cut(cells.jersey, 0),
        cut(cells.colour, UNLABELLED),
        cut(cells.brightness, np.nan),
    )


def _global_view(cells: Cells) -> Cells:
    """The image stretched to one tile: (SIDE, SIDE); a patch shows what most of it shows."""
    down, across = (_coverage(cells_along) for cells_along in cells.jersey.shape)

    def share(values: NDArray[np.bool_] | NDArray[np.float32]) -> NDArray[np.float64]:
        return down @ values @ across.T

    def digit(values: NDArray[np.int64]) -> NDArray[np.int64]:
        shares = np.stack([share(values == number) for number in range(NO_DIGIT)])
        return np.where(shares.max(axis=0) > _SHOWN, shares.argmax(axis=0), NO_DIGIT)

    jersey = (share(cells.jersey == 1) > _SHOWN).astype(np.int64)
    colours = np.stack([share(cells.colour == colour) for colour in range(len(COLOURS))])
    on_jersey = np.stack([share((cells.colour == colour) & (cells.jersey == 1)) for colour in range(len(COLOURS))])
    colour = np.where(jersey == 1, on_jersey.argmax(axis=0), colours.argmax(axis=0))
    return Cells(digit(cells.tens), digit(cells.units), jersey, colour, share(cells.brightness).astype(np.float32))


def _coverage(cells: int) -> NDArray[np.float64]:
    """(SIDE, cells) share of each patch along one axis that each cell fills when the axis is stretched to SIDE."""
    edges = np.arange(SIDE + 1) * cells / SIDE
    begins, ends = np.maximum.outer(edges[:-1], np.arange(cells)), np.minimum.outer(edges[1:], np.arange(cells) + 1)
    return (ends - begins).clip(min=0) * SIDE / cells
