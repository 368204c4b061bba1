import pytest
import torch
from torch.nn import functional as F

from lit_avg.utils.errors import UserError
from lit_avg.visual_tokens.granularity import Granularities
from lit_avg.visual_tokens.scaler import GranularityScaler, Pooling

GRANULARITIES = Granularities((4, 8, 16, 32, 64))


@pytest.mark.parametrize("pooling", ["average", "max"])
def test_one_direct_pool_equals_the_stacked_1x2_and_2x1_pools(pooling: Pooling) -> None:
    features = torch.randn(3, 64, 5)
    levels = GranularityScaler(GRANULARITIES, pooling)(features)
    pool = F.avg_pool2d if pooling == "average" else F.max_pool2d
    plane = features.view(3, 8, 8, 5).permute(0, 3, 1, 2)
    for level, window in zip(levels[-2::-1], [(1, 2), (2, 1), (1, 2), (2, 1)], strict=True):
        plane = pool(plane, window)
        torch.testing.assert_close(level, plane.flatten(2).transpose(1, 2))


def test_two_neighbours_in_a_row_are_averaged_first() -> None:
    features = torch.tensor([1.0, 3.0, 10.0, 20.0]).view(1, 4, 1)  # a 2x2 grid: rows (1, 3) and (10, 20)
    coarsest, middle, finest = GranularityScaler(Granularities((1, 2, 4)))(features)
    assert middle.flatten().tolist() == [2.0, 15.0]
    assert coarsest.flatten().tolist() == [8.5]
    assert finest is features


def test_an_unknown_pooling_is_refused() -> None:
    with pytest.raises(UserError, match="average, max"):
        GranularityScaler(GRANULARITIES, "median")  # type: ignore[arg-type]


def test_a_stride_takes_the_first_token_of_each_window() -> None:
    plane = torch.arange(16.0).view(1, 16, 1)  # rows (0, 1, 2, 3), (4, 5, 6, 7), (8, …), (12, …)
    four, eight, _ = GranularityScaler(Granularities((4, 8, 16)), "strided")(plane)
    assert four.flatten().tolist() == [0, 2, 8, 10]
    assert eight.flatten().tolist() == [0, 2, 4, 6, 8, 10, 12, 14]


def test_learned_pooling_begins_as_the_average_and_weighs_each_place_by_itself() -> None:
    features = torch.randn(3, 64, 5)
    scaler = GranularityScaler(GRANULARITIES, "learned")
    for learned, average in zip(scaler(features), GranularityScaler(GRANULARITIES)(features), strict=True):
        torch.testing.assert_close(learned, average)
    assert {name: tuple(logits.shape) for name, logits in scaler.place_logits.items()} == {
        "4": (4, 4),
        "8": (2, 4),
        "16": (2, 2),
        "32": (1, 2),
    }
    with torch.no_grad():
        scaler.place_logits["16"][0, 1] = 100.0  # the upper right token of each window, and nothing else
    torch.testing.assert_close(scaler(features)[2], features.view(3, 8, 8, 5)[:, ::2, 1::2].flatten(1, 2))


GRIDS_OF_27 = Granularities((9, 49, 196, 729), step=None)


@pytest.mark.parametrize("granularities", [GRIDS_OF_27, GRANULARITIES, Granularities((1, 4, 25, 64), step=None)])
def test_an_adaptive_average_is_that_of_torch_at_grids_of_any_size(granularities: Granularities) -> None:
    features = torch.randn(2, granularities.finest, 5)
    levels = GranularityScaler(granularities, "adaptive_average")(features)
    plane = features.unflatten(1, granularities.grids[-1]).permute(0, 3, 1, 2)
    for level, grid in zip(levels, granularities.grids, strict=True):
        torch.testing.assert_close(level, F.adaptive_avg_pool2d(plane, grid).flatten(2).transpose(1, 2))
    assert levels[-1] is features


def test_an_adaptive_average_of_bfloat16_is_as_good_as_bfloat16_can_be() -> None:
    features = torch.full((1, 729, 1), 3.0, dtype=torch.bfloat16)  # a third of bfloat16 is 0.2 % too large
    assert all((level == 3).all() for level in GranularityScaler(GRIDS_OF_27, "adaptive_average")(features))
    features = torch.rand(1, 729, 4).bfloat16()
    level = GranularityScaler(GRIDS_OF_27, "adaptive_average").pool(features, 1)
    exact = F.adaptive_avg_pool2d(features.float().view(1, 27, 27, 4).permute(0, 3, 1, 2), (7, 7))
    torch.testing.assert_close(level.float(), exact.flatten(2).transpose(1, 2), rtol=2**-7, atol=0)


def test_cells_of_a_grid_that_does_not_divide_share_what_they_touch() -> None:
    row = torch.tensor([1.0, 2.0, 4.0]).repeat(3).view(1, 9, 1)  # three columns in two cells: 1 and 2, 2 and 4
    coarse, _ = GranularityScaler(Granularities((4, 9), step=None), "adaptive_average")(row)
    assert coarse.flatten().tolist() == [1.5, 3.0, 1.5, 3.0]


@pytest.mark.parametrize("pooling", ["average", "max", "strided", "learned"])
def test_windows_that_are_none_are_refused_with_the_way_out(pooling: Pooling) -> None:
    with pytest.raises(UserError, match=r"a 27x27 grid has no 14x14 of them; choose `pooling: adaptive_average`"):
        GranularityScaler(Granularities((196, 729), step=None), pooling)
    squares = Granularities((4, 16, 64), step=None)  # each divides the next, though no step was named
    features = torch.randn(1, 64, 3)
    levels = GranularityScaler(squares, pooling)(features)
    stepped = GranularityScaler(Granularities((4, 16, 64), step=4), pooling)(features)
    assert all(torch.equal(*pair) for pair in zip(levels, stepped, strict=True))
