"""Training on two ranks: nothing hangs, nothing is lost, and a run that is killed goes on where it was."""

import json
import signal
from pathlib import Path

import pytest

from tests.drawn import drawn_shards
from tests.killing import write_config
from tests.two_ranks import fit, keys_by_step, on_ranks, one_rank_without_images

STEPS, STEPS_AN_EPOCH = 12, 5  # 23 samples by twos on two ranks


@pytest.mark.parametrize(
    ("stage", "frozen"),
    [
        ("InstructionTuning", []),
        ("InstructionTuning", ["vision_encoder"]),
        ("Pretrain", []),
        ("MultiGranularityTuning", []),
        ("RGLF", []),
    ],
)
def test_a_rank_without_images_does_not_keep_the_other_waiting(tmp_path: Path, stage: str, frozen: list[str]) -> None:
    marks = tmp_path / "marks"
    assert on_ranks(2, marks, one_rank_without_images, stage, frozen, str(tmp_path)) == [0, 0]
    assert sorted(mark.name for mark in marks.iterdir()) == ["rank0", "rank1"]


@pytest.mark.slow
def test_two_ranks_that_are_killed_go_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    config = write_config(tmp_path, drawn_shards(tmp_path, 23), STEPS)
    common = ["--config", config, "--resume", "auto", "--trainer.strategy", "ddp", "--data.init_args.workers", "0"]

    def run(name: str, ranks: int, marks: str, *callbacks: dict[str, object]) -> list[int]:
        keys = {"class_path": "tests.two_ranks.Keys", "init_args": {"folder": str(tmp_path / name / "keys")}}
        added = [f"--trainer.callbacks+={json.dumps(callback)}" for callback in (keys, *callbacks)]
        options = [
            "--data.init_args.batch_size",
            str(4 // ranks),
            "--trainer.devices",
            str(ranks),
            "--run_root",
            str(tmp_path / name),
        ]
        return on_ranks(ranks, tmp_path / marks, fit, [*common, *options, *added])

    killed = {"class_path": "tests.killing.Killed", "init_args": {"moment": "backward", "count": 8}}
    assert run("whole", 2, "whole-marks") == [0, 0]
    for name in ("killed", "alone"):
        assert run(name, 2, f"{name}-killed", killed) == [-signal.SIGKILL] * 2
    assert run("killed", 2, "resumed-marks") == [0, 0]
    assert (tmp_path / "killed" / "losses.csv").read_text() == (tmp_path / "whole" / "losses.csv").read_text()
    whole, resumed = (
        [keys_by_step(tmp_path / name / "keys", rank) for rank in range(2)] for name in ("whole", "killed")
    )
    assert whole == resumed
    assert list(whole[0]) == list(whole[1]) == list(range(1, STEPS + 1))
    first_epoch = [key for rank in whole for step in range(1, STEPS_AN_EPOCH + 1) for key in rank[step]]
    assert len(set(first_epoch)) == len(first_epoch) == 20
    assert run("alone", 1, "alone-marks") == [0]  # the same four samples a step, on one rank
    alone = keys_by_step(tmp_path / "alone" / "keys", 0)
    for step in range(8, STEPS + 1):
        assert sorted(alone[step]) == sorted(whole[0][step] + whole[1][step])


@pytest.mark.slow
def test_two_ranks_go_on_in_epochs_of_accumulated_steps(tmp_path: Path) -> None:
    config = write_config(tmp_path, drawn_shards(tmp_path, 23), STEPS)
    common = ["--config", config, "--resume", "auto", "--trainer.strategy", "ddp", "--data.init_args.workers", "0"]
    common += ["--trainer.max_steps", "-1", "--trainer.max_epochs", "2", "--trainer.accumulate_grad_batches", "2"]
    common += ["--trainer.devices", "2", "--data.init_args.batch_size", "2", "--trainer.val_check_interval", "3"]
    killed = {"class_path": "tests.killing.Killed", "init_args": {"moment": "backward", "count": 4}}

    def run(name: str, marks: str, *options: str) -> list[int]:
        return on_ranks(2, tmp_path / marks, fit, [*common, "--run_root", str(tmp_path / name), *options])

    assert run("whole", "whole-marks") == [0, 0]
    kill = f"--trainer.callbacks+={json.dumps(killed)}"
    for life in range(2):  # batch 3 of the first epoch, and with what was saved after batch 1 … of both epochs
        assert run("killed", f"killed-{life}", kill) == [-signal.SIGKILL] * 2
    assert run("killed", "resumed-marks") == [0, 0]
    losses = [(tmp_path / name / "losses.csv").read_text() for name in ("whole", "killed")]
    assert len(losses[0].splitlines()) == 2 * STEPS_AN_EPOCH + 1
    assert losses[0] == losses[1]
