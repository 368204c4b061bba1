import json
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
import torch

from lit_avg.cli import main
from tests.tiny_run import write_stage, write_yaml


@pytest.fixture
def asked() -> Iterator[list[int]]:
    """What a launcher that owns the signal would have answered."""
    answered = list[int]()

    def owner(number: int, frame: FrameType | None) -> None:
        answered.append(number)

    before = signal.signal(signal.SIGUSR2, owner)
    yield answered
    signal.signal(signal.SIGUSR2, before)


def fit(folder: Path, *options: str) -> int:
    stage = write_stage(folder, "MultiGranularityTuning")
    return main(["fit", "--config", stage, *options])


def making_room(folder: Path, step: int) -> str:
    told = {"class_path": "tests.tiny_run.ToldToMakeRoom", "init_args": {"step": step, "told": str(folder / "told")}}
    return write_yaml(folder / "room.yaml", {"trainer": {"callbacks+": told}})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / "runs" / "MultiGranularityTuning" / "checkpoints" / "last.ckpt"
    return torch.load(path, weights_only=True)["state_dict"]


def test_a_run_that_is_told_to_make_room_ends_its_step_and_goes_on_without_losing_or_repeating_one(
    tmp_path: Path, asked: list[int]
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    assert fit(whole) == 0
    overlay = making_room(cut, step=1)
    assert fit(cut, "--config", overlay) == 130
    assert asked == [signal.SIGUSR2]  # once, after the checkpoint was written
    run = cut / "runs" / "MultiGranularityTuning"
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
    assert fit(cut, "--config", overlay, "--resume", "auto") == 0
    assert (run / "steps-0.txt").read_text().split() == ["0", "1", "2"]
    ours, theirs = weights(cut), weights(whole)
    assert {name for name in theirs if not torch.equal(ours[name], theirs[name])} == set()
    results = [folder / "runs" / "MultiGranularityTuning" / "result.json" for folder in (cut, whole)]
    first, second = (json.loads(result.read_text())["metrics"] for result in results)
    assert first == second


def test_without_an_owner_of_the_signal_nothing_is_done(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGUSR2)
    assert before == signal.SIG_DFL
    assert fit(tmp_path) == 0
    assert signal.getsignal(signal.SIGUSR2) == before


def test_the_owner_has_the_signal_back_after_the_fit(tmp_path: Path, asked: list[int]) -> None:
    owner = signal.getsignal(signal.SIGUSR2)
    assert fit(tmp_path) == 0
    assert signal.getsignal(signal.SIGUSR2) is owner
    assert asked == []
