"""A run that is killed again and again ends as one that was left alone."""

import json
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drawn import drawn_shards
from tests.killing import fit, write_config

STEPS = 20  # of 7 an epoch: 23 samples by threes


def moments(seed: int) -> list[dict[str, object]]:
    """Five callbacks that kill: twice inside a step, between two epochs, twice while a checkpoint is written."""
    draw = random.Random(seed)
    steps = [
        {"moment": draw.choice(["backward", "optimizer", "batch end"]), "count": draw.randint(1, 5)} for _ in range(2)
    ]
    in_training = [*steps, {"moment": "epoch end", "count": 1}]
    saving = [
        {"touch": draw.randint(2, 12), "seconds": 0.0},
        {"touch": draw.randint(2, 12), "seconds": draw.uniform(0, 0.002)},
    ]
    killed: list[dict[str, object]] = [{"class_path": "tests.killing.Killed", "init_args": one} for one in in_training]
    killed += [{"class_path": "tests.killing.KilledWhileSaving", "init_args": one} for one in saving]
    draw.shuffle(killed)
    return killed


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    """A temporary folder on another disk than the run's, where the machine has one: so it is on many clusters."""
    memory = Path("/dev/shm")
    folder = (memory if memory.is_dir() else tmp_path) / f"lit-avg-{tmp_path.name}"
    folder.mkdir(exist_ok=True)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
def test_a_run_killed_five_times_has_the_losses_of_one_that_was_not(tmp_path: Path, temporary: Path) -> None:
    config = write_config(tmp_path, drawn_shards(tmp_path, 23), STEPS)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert fit(config, whole, temporary) == 0
    for moment in moments(seed=7):
        assert fit(config, killed, temporary, "--trainer.callbacks+", json.dumps(moment)) == -signal.SIGKILL
    assert fit(config, killed, temporary) == 0
    losses = (whole / "losses.csv").read_text()
    assert len(losses.splitlines()) == STEPS + 1
    assert (killed / "losses.csv").read_text() == losses
