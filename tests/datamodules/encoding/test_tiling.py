import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import LlavaNextImageProcessorPil

from datamodules.encoding.tiling import Normalisation, Tiling
from lit_avg.utils.errors import UserError

PINPOINTS = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]
SIDES = st.one_of(st.sampled_from([1, 3, 56, 2000]), st.integers(1, 300))


def random_image(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), np.uint8))


@settings(deadline=None, max_examples=40)
@given(SIDES, SIDES, st.sampled_from([PINPOINTS, [[168, 56]], [[56, 168]]]))  # alone, these have tiles of nothing
def test_tiles_equal_those_of_transformers_bit_for_bit(width: int, height: int, pinpoints: list[list[int]]) -> None:
    image = random_image(width, height)
    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}, image_grid_pinpoints=pinpoints
    )
    # it takes a side of 1 or 3 pixels for the colours unless it is told where these are
    theirs = processor(image, return_tensors="np", input_data_format="channels_last")
    ours = Tiling(56, pinpoints)(image)
    assert torch.equal(Normalisation()(torch.from_numpy(ours.shades)), torch.from_numpy(theirs["pixel_values"][0]))
    assert ours.image_size == tuple(theirs["image_sizes"][0])


def test_a_wide_image_gets_a_row_of_tiles_and_a_global_view() -> None:
    tiled = Tiling(56, PINPOINTS)(random_image(112, 56))
    assert (tiled.tile_grid, tiled.image_size) == ((1, 2), (56, 112))
    assert tiled.shades.shape == (3, 56, 56, 3)  # 1 + 1 x 2 views


def test_a_single_view_is_the_global_view_alone() -> None:
    image = random_image(80, 40)
    single, tiled = Tiling(56, None)(image), Tiling(56, PINPOINTS)(image)
    assert single.tile_grid == (0, 0)
    assert np.array_equal(single.shades, tiled.shades[:1])


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (2, 3), (1, 1)])
def test_thin_images_are_tiled_too(size: tuple[int, int]) -> None:
    tiled = Tiling(56, PINPOINTS)(random_image(*size))
    assert tiled.shades.shape == (1 + tiled.tile_grid[0] * tiled.tile_grid[1], 56, 56, 3)


def test_each_channel_has_a_mean_and_a_deviation_of_its_own() -> None:
    shades = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3)  # 0, 0.2 and 1
    normalised = Normalisation((0.5, 0.1, 0.0), (0.25, 0.5, 2.0))(shades)
    torch.testing.assert_close(normalised.flatten(), torch.tensor([-2.0, 0.2, 0.5]))
    assert Normalisation()(shades[:0]).shape == (0, 3, 1, 1)


def test_a_plane_that_is_not_made_of_tiles_is_refused() -> None:
    with pytest.raises(UserError, match=r"\[56, 100\] is not made of whole tiles of 56 pixels"):
        Tiling(56, [[56, 100]])
