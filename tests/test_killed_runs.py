"""A run that is killed, wherever it stands, goes on as if nothing had happened: every loss is equal to the last bit."""

import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.drawn import drawn_shards
from tests.processes import Moment, by_step, drawn_data, finish, kill_when, reached, run_of, write_config

SAMPLES, BATCH, STEPS = 13, 3, 28
EPOCH = SAMPLES // BATCH


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder with a name short enough for the sockets of data loaders."""
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as folder:
        yield Path(folder)


def within_the_step_after(step: int, seconds: float) -> Moment:
    def come(run: Path) -> bool:
        if not reached(step)(run):
            return False
        time.sleep(seconds)
        return True

    return come


def writing_a_checkpoint_after(step: int, temporary: Path) -> Moment:
    """Lightning writes checkpoints to the temporary folder, and moves them when they are whole."""
    return lambda run: reached(step)(run) and any(path.is_file() for path in temporary.glob("tmp*"))


@pytest.mark.slow
def test_a_run_killed_five_times_has_the_losses_of_an_undisturbed_one(tmp_path: Path, temporary: Path) -> None:
    data = drawn_data(drawn_shards(tmp_path, SAMPLES), BATCH, workers=2)
    configs: list[str] = []
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        configs.append(write_config(tmp_path / name, "RGLF", data, STEPS))
    whole, killed = configs
    finish(whole, temporary)
    chance = random.Random(0)
    moments = [
        within_the_step_after(chance.randint(1, 4), chance.uniform(0, 0.1)),
        writing_a_checkpoint_after(5, temporary),
        reached(3 * EPOCH),  # the next epoch has not begun
        within_the_step_after(chance.randint(14, 17), chance.uniform(0, 0.1)),
        writing_a_checkpoint_after(chance.randint(18, 24), temporary),
    ]
    for moment in moments:
        kill_when(moment, killed, temporary)
    finish(killed, temporary)
    expected = by_step(run_of(whole))
    assert sorted(expected) == list(range(1, STEPS + 1))
    assert len(set().union(*expected.values())) == STEPS, "equal losses would say nothing"
    assert by_step(run_of(killed)) == expected
    checkpoints = [run_of(config) / "checkpoints" / "last.ckpt" for config in configs]
    first, second = (torch.load(path, weights_only=True)["state_dict"] for path in checkpoints)
    assert all(torch.equal(first[name], second[name]) for name in first)
