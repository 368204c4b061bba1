import torch
from torch import nn

from lit_avg.utils.distributed import shares_weights_with_ranks, size_of


def test_a_partitioned_parameter_counts_by_its_own_size_and_one_process_shares_with_nobody() -> None:
    """DeepSpeed leaves an empty tensor, and the size of the whole beside it."""
    whole, partitioned = nn.Parameter(torch.zeros(3, 4)), nn.Parameter(torch.zeros(0))
    partitioned.ds_numel, partitioned.ds_id = 12, 0  # pyright: ignore[reportAttributeAccessIssue]
    assert (size_of(whole), size_of(partitioned)) == (12, 12)
    assert not shares_weights_with_ranks(nn.ParameterList([partitioned]))
