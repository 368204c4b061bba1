from typing import cast

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.jersey.replay import ReplayedLoader


def loader() -> DataLoader[Tensor]:
    return DataLoader(cast("Dataset[Tensor]", list(range(23))), batch_size=3, shuffle=True)


def trained(batches: "DataLoader[Tensor] | ReplayedLoader[Tensor]", epochs: int) -> list[list[float]]:
    """What each step was shown, and a random number that the model drew."""
    return [[*batch.tolist(), torch.rand(()).item()] for _ in range(epochs) for batch in batches]


def test_a_run_that_is_left_alone_sees_what_torchs_own_loader_shows() -> None:
    torch.manual_seed(0)
    plain = trained(loader(), 3)
    torch.manual_seed(0)
    assert trained(ReplayedLoader(loader()), 3) == plain


@pytest.mark.parametrize("done", [0, 1, 5, 8, 11])
def test_a_run_that_goes_on_sees_the_rest_and_draws_the_same_numbers(done: int) -> None:
    torch.manual_seed(0)
    whole = trained(ReplayedLoader(loader()), 3)  # 8 batches an epoch
    torch.manual_seed(0)
    first, seen = ReplayedLoader(loader()), list[list[float]]()
    while len(seen) < done:
        for batch in first:
            seen.append([*batch.tolist(), torch.rand(()).item()])
            if len(seen) == done:
                break
    state, numbers = first.state_dict(), torch.get_rng_state()
    torch.manual_seed(1)
    second = ReplayedLoader(loader())
    second.load_state_dict(state)
    torch.set_rng_state(numbers)
    assert seen + trained(second, 3)[: 24 - done] == whole
