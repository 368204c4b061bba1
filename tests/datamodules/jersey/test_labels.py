import numpy as np

from datamodules.jersey.drawing import BOARD, Player, Scene
from datamodules.jersey.labels import MEAN_BRIGHTNESS, cells_of, patches_of
from lit_avg.batch import NO_DIGIT, UNLABELLED


def scene_with(player: Player, shape: tuple[int, int]) -> Scene:
    return Scene(np.zeros(shape, np.int64), np.full(shape, 0.5, np.float32), (player,), 0, (0, 0))


def test_a_digit_is_labelled_in_its_own_cells_of_its_own_tile() -> None:
    patches = patches_of(cells_of(scene_with(Player(row=1, column=9, size=2, number=47, colour=3), (8, 16))))
    assert patches.tens.shape == (3, 8, 8)  # global view, left tile, right tile
    assert np.argwhere(patches.tens[2] == 4).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert np.argwhere(patches.units[2] == 7).tolist() == [[1, 3], [1, 4], [2, 3], [2, 4]]
    assert (patches.tens[1] == NO_DIGIT).all()
    assert patches.jersey[2].sum() == 3 * 4
    assert (patches.colour[2][1:4, 1:5] == 3).all()
    assert (patches.brightness[2] == np.float32(MEAN_BRIGHTNESS)).sum() == 3 * 4


def test_of_a_board_the_digits_are_labelled_and_neither_jersey_nor_colour() -> None:
    patches = patches_of(cells_of(scene_with(Player(row=1, column=9, size=1, number=47, colour=BOARD), (8, 16))))
    assert np.argwhere(patches.tens[2] == 4).tolist() == [[1, 1]]
    assert np.argwhere(patches.units[2] == 7).tolist() == [[1, 2]]
    assert patches.jersey.sum() == 0
    assert (patches.colour[2][1:3, 1:3] == UNLABELLED).all()
    assert (patches.colour[2] == UNLABELLED).sum() == 2 * 2


def test_the_padding_of_a_narrow_image_is_not_labelled() -> None:
    patches = patches_of(cells_of(scene_with(Player(0, 0, 1, 10, 1), (8, 12))))  # 4 of 16 columns are padding
    assert (patches.colour[1][:, :2] == UNLABELLED).all()
    assert (patches.colour[2][:, 6:] == UNLABELLED).all()
    assert (patches.colour[1][:, 2:] != UNLABELLED).all()
    assert patches.tens[1][0, 2] == 1


def test_the_global_view_halves_the_longer_side() -> None:
    patches = patches_of(cells_of(scene_with(Player(row=3, column=4, size=1, number=58, colour=2), (8, 16))))
    assert np.argwhere(patches.tens[0] == 5).tolist() == [[3, 2]]  # both digits share the patch of columns 4 and 5
    assert np.argwhere(patches.units[0] == 8).tolist() == [[3, 2]]
    assert np.argwhere(patches.jersey[0] == 1).tolist() == [[3, 2], [4, 2]]
