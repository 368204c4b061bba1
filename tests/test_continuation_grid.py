"""Killed at any moment, in every way of counting: a run that goes on ends as one that was left alone, bit by bit.

    pytest tests/test_continuation_grid.py -v -m "slow or not slow"

prints the grid, a line a case. An epoch has 7 batches (23 samples by threes), which neither 2 nor 3 divides.
"""

import json
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.continuation import Life, differences, live
from tests.drawn import drawn_shards
from tests.killing import write_config

STEPS = ("--trainer.max_steps", "12")


def epochs(count: int) -> tuple[str, ...]:
    """As the paper's recipe counts."""
    return ("--trainer.max_steps", "-1", "--trainer.max_epochs", str(count))


def accumulate(batches: int) -> tuple[str, ...]:
    return ("--trainer.accumulate_grad_batches", str(batches))


def validate(interval: str, every_n_epoch: str = "null") -> tuple[str, ...]:
    return ("--trainer.val_check_interval", interval, "--trainer.check_val_every_n_epoch", every_n_epoch)


def limit(batches: str) -> tuple[str, ...]:
    return ("--trainer.limit_train_batches", batches)


def stop_early(**rule: object) -> tuple[str, ...]:
    """When validation does not get better for two validations, as it never does: it has to by 100."""
    arguments = {"monitor": "val/loss", "min_delta": 100.0, "patience": 2, **rule}
    callback = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": arguments}
    return (f"--trainer.callbacks+={json.dumps(callback)}",)


def stop_after(batches: int) -> tuple[str, ...]:
    """What `max_time` does, by a clock that ticks with the batches."""
    callback = {"class_path": "tests.continuation.BatchTimer", "init_args": {"batches": batches}}
    return (f"--trainer.callbacks+={json.dumps(callback)}",)


WORKERS = ("--data.init_args.workers", "2")
NO_VALIDATION = ("--trainer.limit_val_batches", "0")


@dataclass(frozen=True)
class Case:
    """A way of counting, and the lives of a run that is killed."""

    name: str
    options: tuple[str, ...]
    lives: Sequence[Life]
    every_steps: int = 2


def killed(*moments: tuple[str, int]) -> list[Life]:
    """A life for each moment, and one that comes to its end."""
    return [*(Life(moment, count) for moment, count in moments), Life()]


CASES = [
    Case("steps", (*STEPS, *validate("5")), killed(("batch end", 8), ("optimizer", 1), ("validation end", 1))),
    Case(
        "epochs, validation counted over all batches",
        (*epochs(2), *validate("5"), *WORKERS),
        killed(("batch end", 4), ("backward", 5), ("in validation", 1)),
    ),
    Case(
        "steps of two batches",
        (*STEPS, *accumulate(2), *validate("5")),
        # 7 batches an epoch: steps end behind batches 1, 3, 5 and 6; validation behind 4 is in the midst of one
        killed(("optimizer", 3), ("batch end", 3), ("backward", 8), ("epoch end", 1), ("validation end", 2)),
    ),
    Case(
        "epochs of steps of three batches, validated by share",
        (*epochs(3), *accumulate(3), *validate("0.5", "1")),
        killed(("batch end", 4), ("validation end", 2), ("epoch end", 1), ("fit end", 1)),
        every_steps=1,
    ),
    Case(
        "epochs, validated at their ends",
        (*epochs(3), *validate("1.0", "1")),
        killed(("batch end", 7), ("in validation", 1), ("validation end", 1), ("train end", 1)),
        every_steps=7,
    ),
    Case(
        "epochs that are cut, validated every other",
        (*epochs(4), *limit("5"), *accumulate(2), *validate("1.0", "2")),
        killed(("epoch end", 1), ("batch end", 7), ("validation end", 1)),
        every_steps=3,
    ),
    Case(
        "steps in a share of each epoch, without validation",
        (*STEPS, *limit("0.6"), *accumulate(3), *NO_VALIDATION, *WORKERS),
        killed(("batch end", 5), ("batch end", 2), ("epoch end", 2), ("train end", 1)),
        every_steps=1,
    ),
    Case(
        "an epoch of one step",
        (*epochs(4), *limit("2"), *accumulate(3), *validate("3")),
        killed(("batch end", 4), ("train start", 1), ("batch end", 3)),
        every_steps=1,
    ),
    Case(
        "stopped early",
        (*STEPS, *validate("2"), *accumulate(3), *stop_early()),
        killed(("validation end", 2), ("batch end", 2), ("fit end", 1)),
        every_steps=1,
    ),
    Case(
        "stopped early at an epoch's end",
        (*epochs(5), *validate("1.0", "1"), *stop_early(check_on_train_epoch_end=True)),
        killed(("batch end", 9), ("validation end", 1), ("epoch end", 1), ("train end", 1)),
        every_steps=3,
    ),
    Case(
        "two kills between the same checkpoints",
        (*epochs(2), *accumulate(2), *validate("4", "1"), *WORKERS),
        killed(("batch end", 5), ("batch end", 1), ("backward", 2), ("batch end", 6)),
        every_steps=50,
    ),
    Case(
        "stopped by max_time in the midst of a step, before a validation",
        (*STEPS, *accumulate(2), *validate("8")),
        [Life(options=stop_after(3)), Life("batch end", 2), Life(options=stop_after(7)), Life()],
        every_steps=50,
    ),
    Case(
        "stopped by max_time, validated by share",
        (*epochs(2), *validate("0.5", "1")),
        [Life(options=stop_after(5)), Life("batch end", 1), Life(options=stop_after(13)), Life()],
    ),
    Case("killed before anything was saved", (*STEPS, *validate("6")), killed(("batch end", 3)), every_steps=50),
]
SHORT = {"epochs, validation counted over all batches", "steps of two batches", "an epoch of one step"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn_shards(tmp_path_factory.mktemp("drawn"), 23)


@pytest.mark.parametrize(
    "case", [pytest.param(one, id=one.name, marks=() if one.name in SHORT else pytest.mark.slow) for one in CASES]
)
def test_a_killed_run_ends_as_one_that_was_left_alone(case: Case, shards: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, shards, 12, every_steps=case.every_steps)
    assert live(tmp_path / "whole", config, case.options, [Life()]) == [0]
    statuses = live(tmp_path / "killed", config, case.options, case.lives)
    assert statuses == [-signal.SIGKILL if life.moment else 0 for life in case.lives]
    assert differences(tmp_path / "whole", tmp_path / "killed") == []
