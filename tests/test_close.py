"""The bounds of the parity tests would notice a mistake, in large and in small tensors."""

import math

import pytest
import torch

from tests.close import SHARE, assert_close, gradient_share, share


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_a_difference_counts_by_the_size_of_the_tensor(size: float) -> None:
    theirs = size * torch.tensor([1.0, -4.0, 0.5], dtype=torch.double)
    assert share(theirs + 2e-5 * size, theirs) == pytest.approx(5e-6)  # 2e-5 of 4
    assert_close(theirs + 2e-5 * size, theirs)
    with pytest.raises(AssertionError, match=r"differs by 2.5e-05 of the largest entry"):
        assert_close(theirs + 1e-4 * size, theirs)


def test_what_is_not_finite_must_be_equal_and_so_must_whole_numbers_and_zeros() -> None:
    odd = torch.tensor([1.0, -math.inf])
    assert share(odd, odd) == 0
    assert share(torch.tensor([1.0, math.inf]), odd) == share(torch.tensor([1.0, 2.0]), odd) == math.inf
    assert share(torch.tensor([1, 2]), torch.tensor([1, 3])) == math.inf
    assert share(torch.tensor([0.0, 1e-9]), torch.zeros(2)) == math.inf
    assert share(torch.zeros(2), torch.zeros(3)) == math.inf
    assert share(torch.tensor([math.nan, 1.0]), torch.ones(2)) == math.inf
    assert gradient_share(torch.tensor([math.nan]), torch.tensor([1e-9]), largest=1.0) == math.inf
    with pytest.raises(AssertionError):
        assert_close(torch.tensor([math.nan, 1.0]), torch.ones(2))


def test_of_a_gradient_that_cancels_only_its_rounding_is_held() -> None:
    noise, other = torch.tensor([1e-9, -2e-9]), torch.tensor([-1e-9, 1e-9])
    assert gradient_share(noise, other, largest=1.0) == pytest.approx(3e-9 / 1e-6)
    assert gradient_share(noise + 1e-5, other, largest=1.0) > 1
    assert gradient_share(torch.tensor([1e-3]), torch.tensor([1e-3 * (1 + 2e-5)]), largest=1.0) > 1  # no noise
    assert gradient_share(torch.ones(1), torch.full((1,), 1 + SHARE / 2), largest=1.0) < 1
