import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.llava_next.modeling_llava_next import unpad_image

from lit_avg.visual_tokens.anyres import NEWLINE, count_visual_tokens, visual_sequence
from lit_avg.visual_tokens.granularity import Granularities

LEVELS = Granularities().grids
FINEST = LEVELS[-1]


@given(
    grid=st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 2), (1, 3), (3, 1)]),
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
)
def test_the_finest_level_is_unpadded_exactly_as_in_transformers(
    grid: tuple[int, int], height: int, width: int
) -> None:
    tiles = torch.arange(576, 576 * (1 + grid[0] * grid[1])).view(*grid, 24, 24)
    plane = tiles.permute(0, 2, 1, 3).reshape(1, grid[0] * 24, grid[1] * 24)
    kept = unpad_image(plane, (height, width))[0]
    with_newlines = torch.cat([kept, torch.full((len(kept), 1), NEWLINE)], dim=1).flatten()
    expected = torch.cat([torch.arange(576), with_newlines])
    assert torch.equal(visual_sequence(grid, (height, width), FINEST, FINEST), expected)


@given(
    grid=st.sampled_from([(0, 0), (1, 1), (1, 2), (2, 1), (2, 2), (1, 3)]),
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    level=st.sampled_from(LEVELS),
)
def test_the_count_is_the_length_of_the_sequence_at_every_level(
    grid: tuple[int, int], height: int, width: int, level: tuple[int, int]
) -> None:
    sequence = visual_sequence(grid, (height, width), level, FINEST)
    assert count_visual_tokens(grid, (height, width), level, FINEST) == len(sequence)
    tokens = sequence[sequence != NEWLINE]
    assert len(tokens.unique()) == len(tokens)


@pytest.mark.parametrize(("level", "tokens"), [(0, 12), (1, 24), (2, 24), (3, 48), (4, 48)])
def test_an_unpadded_672_square_keeps_all_its_rows_at_every_level(level: int, tokens: int) -> None:
    rows, columns = LEVELS[level]
    expected = rows * columns + 2 * rows * (2 * columns + 1)
    assert count_visual_tokens((2, 2), (672, 672), LEVELS[level], FINEST) == expected
    assert 2 * rows == tokens


def test_padding_is_cut_by_its_true_share_where_the_grid_is_not_square() -> None:
    # 480 wide and 640 high in a 672 square: three quarters of the plane's width at every level, and as in
    # transformers a token more where the padding cannot be halved (9 of 12 columns keep 10).
    shares = [
        (count_visual_tokens((2, 2), (640, 480), level, FINEST) - level[0] * level[1]) / (2 * level[0])
        for level in LEVELS
    ]
    assert shares == [10 + 1, 10 + 1, 18 + 1, 18 + 1, 36 + 1]  # columns left of 12, 12, 24, 24 and 48, and a newline


def test_the_global_view_alone_ends_in_one_newline() -> None:
    assert visual_sequence((0, 0), (10, 10), (1, 2), (2, 2)).tolist() == [0, 1, NEWLINE]
