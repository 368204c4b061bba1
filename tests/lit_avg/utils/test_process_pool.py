"""Work in processes of its own comes back in order, and a worker's end is told."""

import os
from collections.abc import Iterator
from operator import neg

import pytest

from lit_avg.utils.errors import UserError
from lit_avg.utils.process_pool import in_order


def test_results_come_in_order_and_items_are_read_as_they_are_needed() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for number in range(200):
            read.append(number)
            yield number

    results = in_order(neg, items(), workers=2)
    assert [next(results) for _ in range(5)] == [0, -1, -2, -3, -4]
    assert len(read) < 20
    assert list(results) == [-number for number in range(5, 200)]


def test_a_worker_that_is_killed_is_told() -> None:
    with pytest.raises(UserError, match="a worker process was killed"):
        list(in_order(os._exit, [0, 1], workers=2))


def test_an_error_in_a_worker_arrives_as_it_is() -> None:
    with pytest.raises(TypeError, match="bad operand type"):
        list(in_order(neg, ["a"], workers=2))
