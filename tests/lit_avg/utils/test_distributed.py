import torch
from torch import nn

from lit_avg.utils.distributed import shares_weights_with_ranks, size_of
from lit_avg.utils.finite import non_finite


def test_a_partitioned_parameter_counts_by_its_own_size_and_one_process_shares_with_nobody() -> None:
    """DeepSpeed leaves an empty tensor, and the size of the whole beside it."""
    whole, partitioned = nn.Parameter(torch.zeros(3, 4)), nn.Parameter(torch.zeros(0))
    partitioned.ds_numel, partitioned.ds_id = 12, 0  # pyright: ignore[reportAttributeAccessIssue]
    assert (size_of(whole), size_of(partitioned)) == (12, 12)
    assert not shares_weights_with_ranks(nn.ParameterList([partitioned]))


def test_what_a_process_holds_of_a_partitioned_parameter_is_looked_at() -> None:
    partitioned = nn.Parameter(torch.zeros(0))
    partitioned.ds_tensor = torch.tensor([1.0, torch.nan])  # pyright: ignore[reportAttributeAccessIssue]
    assert non_finite({"weight": partitioned, "other": torch.ones(2)}) == ["weight"]
