from pathlib import Path

import pytest
import torch

from lit_avg.cli import main
from tests.tiny_run import write_stage


def saved(run: Path) -> dict[str, object]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def test_a_run_keeps_one_checkpoint_with_its_stage_and_step(tested_run: Path) -> None:
    assert [path.name for path in (tested_run / "checkpoints").iterdir()] == ["last.ckpt"]
    checkpoint = saved(tested_run)
    assert checkpoint["global_step"] == 4
    assert checkpoint["lit_avg_stage"] == "RGLF"


def test_what_validation_fits_is_in_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_avg.stages.router_stage.fit_delta", lambda outcomes: 0.75)  # not the 0 it starts with
    assert main(["fit", "--config", write_stage(tmp_path, "RGLF")]) == 0
    assert saved(tmp_path / "runs" / "RGLF")["state_dict"]["delta"].item() == 0.75


def test_a_run_without_validation_is_saved_at_its_end(tmp_path: Path) -> None:
    stage = write_stage(tmp_path, "Pretrain")
    assert main(["fit", "--config", stage, "--trainer.limit_val_batches", "0"]) == 0
    assert saved(tmp_path / "runs" / "Pretrain")["global_step"] == 3
