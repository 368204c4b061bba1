"""Jersey's images: one player in a crowd that holds up boards, drawn by a seeded generator.

The idea is the paper's Figure 1: the colour of a jersey takes a glance, the number on it a close look. Boards have
numbers, too, which nobody asks for: where many cells are pooled into one token, they get mixed up. An image is
made of square cells of `CELL` pixels, the patches of the small vision encoder. A `Scene` says what is in it, cell by
cell; `draw` makes pixels of that. Images and their contents come from the generator they are given, nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

CELL = 8
"""Pixels of a cell's side."""

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (1.0, 0.1, 0.1),
    "yellow": (1.0, 1.0, 0.1),
    "green": (0.1, 1.0, 0.1),
    "cyan": (0.1, 1.0, 1.0),
    "blue": (0.1, 0.1, 1.0),
    "pink": (1.0, 0.1, 1.0),
}
"""Colours by name, as red, green and blue at full brightness."""

SHAPES = ((8, 16), (16, 8), (8, 14), (14, 8), (8, 12), (12, 8))
"""Rows and columns of cells an image may have; all but the first two leave padding in their two tiles."""

SHAPE_SHARES = (0.35, 0.35, 0.075, 0.075, 0.075, 0.075)

PLAYER_SIZES = (1, 2, 3)
"""Cells of a digit's side."""

PLAYER_SIZE_SHARES = (0.4, 0.3, 0.3)

BOARD = -1
"""In place of a jersey's colour: a number that nobody wears."""

_DOMINANCE = 0.3  # share of crowd cells that have the dominant colour for sure
_BRIGHTNESS, _SPREAD, _HIGHLIGHT = 0.55, 0.3, 0.25
_NOISE = 0.06
_SHADES = 32  # per channel: coarse shades keep the noise from filling the disk
_JERSEY_BRIGHTNESS, _OUTLINE = 0.6, 0.05  # a board is all outline
_BOARDS, _BOARD_SIZES = 4, (1, 2)  # how many are tried to be placed

_FONT = (
    ".###.|#...#|#..##|#.#.#|##..#|#...#|.###.  ..#..|.##..|..#..|..#..|..#..|..#..|.###.  "
    ".###.|#...#|....#|...#.|..#..|.#...|#####  #####|...#.|..#..|...#.|....#|#...#|.###.  "
    "...#.|..##.|.#.#.|#..#.|#####|...#.|...#.  #####|#....|####.|....#|....#|#...#|.###.  "
    "..##.|.#...|#....|####.|#...#|#...#|.###.  #####|....#|...#.|..#..|.#...|.#...|.#...  "
    ".###.|#...#|#...#|.###.|#...#|#...#|.###.  .###.|#...#|#...#|.####|....#|...#.|.##.."
)
_DIGITS = np.array([[[dot == "#" for dot in row] for row in digit.split("|")] for digit in _FONT.split()])  # (10, 7, 5)
_PALETTE = np.array(list(COLOURS.values()), dtype=np.float32)


@dataclass(frozen=True)
class Player:
    """A jersey with a number of two digits on it, or a board; its top left cell, in cells."""

    row: int
    column: int
    size: int  # cells of a digit's side
    number: int  # 10 to 99
    colour: int  # index into COLOURS, or BOARD

    @property
    def worn(self) -> bool:
        """Whether it is a jersey."""
        return self.colour != BOARD

    @property
    def rows(self) -> int:
        """Height in cells: the digits and a hem."""
        return self.size + 1

    @property
    def columns(self) -> int:
        """Width in cells: two digits."""
        return 2 * self.size

    @property
    def place(self) -> tuple[slice, slice]:
        """Its rows and columns in an array of cells."""
        return slice(self.row, self.row + self.rows), slice(self.column, self.column + self.columns)


@dataclass(frozen=True)
class Scene:
    """What an image shows. Rows and columns are cells."""

    crowd: NDArray[np.int64]  # (rows, columns) index into COLOURS
    brightness: NDArray[np.float32]  # (rows, columns) of the crowd
    players: tuple[Player, ...]
    dominant: int  # the crowd's most frequent colour
    brightest: tuple[int, int]  # the brightest quarter: 0 for top or 1 for bottom, 0 for left or 1 for right

    @property
    def player(self) -> Player:
        """The only one who wears a jersey."""
        (player,) = (player for player in self.players if player.worn)
        return player


def random_shape(generator: Generator) -> tuple[int, int]:
    """Rows and columns of a scene; the first thing that is drawn of it."""
    return SHAPES[generator.choice(len(SHAPES), p=SHAPE_SHARES)]


def random_scene(generator: Generator) -> Scene:
    """A crowd with one player and a few boards."""
    shape = random_shape(generator)
    size = PLAYER_SIZES[generator.choice(len(PLAYER_SIZES), p=PLAYER_SIZE_SHARES)]
    row = generator.choice(_clear_of_the_middle(shape[0], size + 1))
    column = generator.choice(_clear_of_the_middle(shape[1], 2 * size))
    player = random_player(int(row), int(column), size, generator)
    boards = [random_board(shape, size, generator) for size in generator.choice(_BOARD_SIZES, _BOARDS).tolist()]
    return random_crowd(shape, without_overlap([player, *boards], shape), generator)


def random_board(shape: tuple[int, int], size: int, generator: Generator) -> Player:
    """A board anywhere in the image."""
    row, column, number = generator.integers((0, 0, 10), (shape[0] - size, shape[1] - 2 * size + 1, 100))
    return Player(int(row), int(column), size, int(number), BOARD)


def without_overlap(players: Sequence[Player], shape: tuple[int, int]) -> tuple[Player, ...]:
    """Those that do not stand where one before them stands."""
    taken = np.zeros(shape, dtype=bool)
    alone: list[Player] = []
    for player in players:
        if not taken[player.place].any():
            taken[player.place] = True
            alone.append(player)
    return tuple(alone)


def random_player(row: int, column: int, size: int, generator: Generator) -> Player:
    """A player at a given place, with a random number and colour."""
    number, colour = generator.integers((10, 0), (100, len(COLOURS)))
    return Player(row, column, size, int(number), int(colour))


def random_crowd(shape: tuple[int, int], players: tuple[Player, ...], generator: Generator) -> Scene:
    """A crowd around given players, with a dominant colour and a quarter that is brighter than the others."""
    dominant = int(generator.integers(len(COLOURS)))
    others = (dominant + generator.integers(1, len(COLOURS), shape)) % len(COLOURS)
    crowd = np.where(generator.random(shape) < _DOMINANCE, dominant, others)
    brightness = generator.uniform(_BRIGHTNESS - _SPREAD, _BRIGHTNESS + _SPREAD, shape).astype(np.float32)
    bottom, right = (int(half) for half in generator.integers(2, size=2))
    half_rows, half_columns = shape[0] // 2, shape[1] // 2
    brightness[bottom * half_rows :, right * half_columns :][:half_rows, :half_columns] += _HIGHLIGHT
    return Scene(crowd, brightness, players, dominant, (bottom, right))


def draw(scene: Scene, generator: Generator) -> NDArray[np.uint8]:
    """The scene as pixels, (height, width, 3), with the generator's noise on it."""
    cells = _PALETTE[scene.crowd] * scene.brightness[..., None]
    image = cells.repeat(CELL, axis=0).repeat(CELL, axis=1)
    for player in scene.players:
        rows, columns = (slice(cells.start * CELL, cells.stop * CELL) for cells in player.place)
        image[rows, columns] = _draw_player(player)
    image += _NOISE * generator.standard_normal(image.shape, dtype=np.float32)
    shade = 256 // _SHADES
    return (image.clip(0, 1) * 255 / shade).astype(np.uint8) * shade


def _draw_player(player: Player) -> NDArray[np.float32]:
    """White digits on the jersey's colour. The dark outline tells a tens digit from a units digit by its side."""
    size = player.size
    jersey = np.empty((player.rows * CELL, player.columns * CELL, 3), dtype=np.float32)
    jersey[:] = _OUTLINE
    if player.worn:
        jersey[size:-size, size:-size] = _PALETTE[player.colour] * _JERSEY_BRIGHTNESS
    tens, units = (_DIGITS[digit].repeat(size, axis=0).repeat(size, axis=1) for digit in divmod(player.number, 10))
    height, width = tens.shape  # 7 and 5 times the size: as large as fits into size x size cells beside the outline
    jersey[size : size + height, 2 * size : 2 * size + width][tens] = 1
    jersey[size : size + height, (CELL + 1) * size : (CELL + 1) * size + width][units] = 1
    return jersey


def _clear_of_the_middle(available: int, needed: int) -> list[int]:
    """Where something may begin so that its centre is at least one cell away from the middle line."""
    return [begin for begin in range(available - needed + 1) if abs(2 * begin + needed - available) >= 2]
