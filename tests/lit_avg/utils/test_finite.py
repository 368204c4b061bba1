"""Which tensors have numbers that are not finite, also where a process has a part of one."""

import math
from typing import Any, cast

import pytest
import torch

from lit_avg.utils.finite import non_finite


@pytest.mark.parametrize(("rank", "part", "named"), [(0, [1.0, math.nan], True), (1, [3.0, math.nan], False)])
def test_what_fills_up_the_last_part_of_a_partitioned_tensor_is_not_looked_at(
    rank: int, part: list[float], named: bool
) -> None:
    """Three numbers on two ranks, as ZeRO stage 3 has them: two each, the last of which is whatever lay in memory."""
    weight = cast(Any, torch.nn.Parameter(torch.empty(0)))
    weight.ds_tensor, weight.ds_numel, weight.ds_zero_partition_rank = torch.tensor(part), 3, rank
    assert non_finite({"weight": weight}) == ["weight"] * named
