"""Work in processes of its own comes back in order, and a worker's end is told."""

import os
import signal
import time
from collections.abc import Iterator
from operator import neg

import pytest

from lit_avg.utils.errors import UserError
from lit_avg.utils.process_pool import at_once, in_order


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


def fail_or_wait(how: str) -> None:
    """One way for a process to end; or none, for a minute."""
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "mistaken":
        raise UserError("this is no good")
    if how == "broken":
        raise KeyError("nobody knows")
    if how == "gone":
        os._exit(3)
    time.sleep(60)


def test_work_that_is_done_at_once_gives_all_results() -> None:
    assert at_once(neg, [1, 2, 3]) == [-1, -2, -3]


@pytest.mark.parametrize(
    ("how", "error", "told"),
    [
        ("killed", UserError, "process 2 of 2 was killed by SIGKILL, perhaps for want of memory; the others were"),
        ("gone", UserError, "process 2 of 2 ended with status 3; the others"),
        ("mistaken", UserError, "^this is no good$"),
        ("broken", RuntimeError, "process 2 of 2 failed:(.|\n)*KeyError: 'nobody knows'\n$"),
    ],
)
def test_the_first_process_that_fails_ends_the_others_and_is_told(how: str, error: type[Exception], told: str) -> None:
    began = time.monotonic()
    with pytest.raises(error, match=told):
        at_once(fail_or_wait, ["waits", how])
    assert time.monotonic() - began < 50
