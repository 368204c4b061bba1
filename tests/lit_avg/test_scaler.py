import pytest
import torch
from torch.nn import functional as F

from lit_avg.errors import UserError
from lit_avg.granularity import Granularities
from lit_avg.scaler import GranularityScaler, Pooling

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
