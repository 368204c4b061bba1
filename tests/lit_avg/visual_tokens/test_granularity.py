import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_avg.utils.errors import UserError
from lit_avg.visual_tokens.granularity import Granularities


def test_grids_halve_the_width_first_as_in_the_paper() -> None:
    assert Granularities().grids == ((6, 6), (12, 6), (12, 12), (24, 12), (24, 24))


def test_the_router_reads_1116_visual_tokens_of_a_tile() -> None:
    assert Granularities().router_slots == 576 + 288 + 144 + 72 + 36


def test_levels_may_be_left_out_on_purpose() -> None:
    assert Granularities((36, 144, 576), step=4).grids == ((6, 6), (12, 12), (24, 24))


@given(side=st.integers(0, 5), levels=st.integers(1, 11))
def test_every_grid_has_as_many_cells_as_its_level_has_tokens(side: int, levels: int) -> None:
    finest = (1 << side) ** 2
    tokens = [finest >> level for level in range(levels) if finest >> level][::-1]
    granularities = Granularities(tokens)
    assert [rows * columns for rows, columns in granularities.grids] == tokens


@pytest.mark.parametrize(
    ("tokens", "step", "message"),
    [
        ((36, 144, 576), 2, "each granularity must halve the one before, but 576 is followed by 144"),
        ((576, 288), 2, "list them coarse to fine"),
        ((4, 8), 2, "must be a square grid, but 8"),
        ((9, 18, 36), 2, None),
        ((18, 36, 72), 2, "square"),
        ((), 2, "at least one level"),
        ((1, 3, 9), 3, "power of two"),
        ((12, 25), 2, "must halve"),
        ((1, 2, 4, 8, 16, 32, 64), 2, None),
        ((9, 49, 196, 729), None, None),
        ((729,), None, None),
        ((9, 50, 729), None, "square grid, but 50 is not a square number; the nearest are 49 and 64"),
        ((9, 196, 49, 729), None, "coarse to fine, but 196 is followed by 49"),
        ((9, 9, 729), None, "coarse to fine, but 9 is followed by 9"),
        ((364, 729), 2, "must halve the one before, but 729 is followed by 364; .*`step: null` and `pooling: adapt"),
        ((9, 36, 144, 576), 3, "or null for squares"),
    ],
)
def test_a_list_that_cannot_be_pooled_is_refused_with_the_reason(
    tokens: tuple[int, ...], step: int | None, message: str | None
) -> None:
    if message is None:
        assert Granularities(tokens, step).finest == tokens[-1]
    else:
        with pytest.raises(UserError, match=message):
            Granularities(tokens, step)


def test_without_a_step_each_level_is_a_square_grid_of_its_own() -> None:
    assert Granularities((9, 49, 196, 729), step=None).grids == ((3, 3), (7, 7), (14, 14), (27, 27))


@pytest.mark.parametrize(
    ("tokens", "step"), [((576,), 2), ((72, 144), 2), ((36, 144, 576), 4), ((4, 36), None), ((9, 49, 196, 729), None)]
)
def test_levels_are_known_by_their_tokens_alone(tokens: tuple[int, ...], step: int | None) -> None:
    assert Granularities.of_tokens(tokens) == Granularities(tokens, step)


def test_an_odd_side_cannot_be_halved() -> None:
    with pytest.raises(UserError, match="must halve"):
        Granularities((112, 225))


def test_index_names_the_levels_there_are() -> None:
    assert Granularities().index(144) == 2
    with pytest.raises(UserError, match=r"no granularity of 100 tokens per tile, only \[36, 72"):
        Granularities().index(100)
