import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from callbacks.checkpointing import last_checkpoint, saving
from callbacks.checkpointing.last_checkpoint import LastCheckpoint
from callbacks.checkpointing.saving import save_last
from lit_avg.batch import Batch
from lit_avg.cli import main
from lit_avg.result_names import SAVING
from lit_avg.runs.run_folder import LAST_CHECKPOINT
from lit_avg.stages import InstructionTuning
from lit_avg.training.optim import Optimization
from tests.tiny import tiny_model
from tests.tiny_run import write_stage, write_yaml

Make = Callable[..., Batch]


def saved(run: Path) -> dict[str, Any]:
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


def with_callbacks(folder: Path, *callbacks: dict[str, object]) -> list[str]:
    """A stage of four steps, validated after each second, with callbacks of its own beside what writes results."""
    listed = [*callbacks, {"class_path": "callbacks.ResultsWriter"}]
    overlay = write_yaml(folder / "callbacks.yaml", {"trainer": {"callbacks": listed}})
    stage = ["--config", write_stage(folder, "RGLF"), "--config", overlay]
    return [*stage, "--trainer.max_steps", "4", "--trainer.val_check_interval", "2"]


def test_how_often_a_run_is_saved_changes_nothing_of_what_it_comes_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the clock: after each of four steps, or, where saving takes an hour, at the validations and the end alone."""
    counts, weights = list[int](), list[object]()
    arguments: list[dict[str, object]] = [
        {"every_minutes": 1e-9},
        {"every_minutes": None, "every_steps": 1},
        {"every_minutes": 1e-9},
    ]
    for number, given in enumerate(arguments):
        saves = list[int]()

        def counted(trainer: L.Trainer, saves: list[int] = saves) -> int:
            saves.append(trainer.global_step)
            return save_last(trainer)

        monkeypatch.setattr(saving, "save_last", counted)
        monkeypatch.setattr(last_checkpoint, "LARGEST_SHARE", 1e-9 if number == 2 else 1e9)
        folder = tmp_path / str(number)
        folder.mkdir()
        callback: dict[str, object] = {"class_path": "callbacks.LastCheckpoint", "init_args": given}
        assert main(["fit", *with_callbacks(folder, callback)]) == 0
        counts.append(len(saves))
        weights.append({name: one.tolist() for name, one in saved(folder / "runs" / "RGLF")["state_dict"].items()})
        assert capsys.readouterr().out.count("saved in") == 1
        kept = json.loads((folder / "runs" / "RGLF" / SAVING).read_text())
        assert kept["bytes"] == (folder / "runs" / "RGLF" / LAST_CHECKPOINT).stat().st_size
    assert counts == [4, 4, 3]  # the first, then those behind the validations of step 2 and 4
    assert weights[0] == weights[1] == weights[2]


def test_a_run_that_was_stopped_early_stays_stopped(tmp_path: Path) -> None:
    rule = {"monitor": "val/loss", "mode": "max", "stopping_threshold": -1.0}
    early = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": rule}
    stage, run = with_callbacks(tmp_path, {"class_path": "callbacks.LastCheckpoint"}, early), tmp_path / "runs" / "RGLF"
    assert main(["fit", *stage]) == 0
    result, weights = (run / "result.json").read_text(), saved(run)["state_dict"]
    assert json.loads(result)["steps"] == 2
    assert main(["fit", *stage, "--resume", "auto"]) == 0
    assert (run / "result.json").read_text() == result
    assert saved(run)["global_step"] == 2
    assert all(torch.equal(tensor, weights[name]) for name, tensor in saved(run)["state_dict"].items())


def test_a_run_that_is_killed_in_its_validation_is_validated_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: LastCheckpoint, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        raise KeyboardInterrupt

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
        stage = with_callbacks(folder, {"class_path": "callbacks.LastCheckpoint", "init_args": {"every_steps": 1}})
        if folder == cut:
            with monkeypatch.context() as patched:
                patched.setattr(LastCheckpoint, "on_validation_end", killed)
                assert main(["fit", *stage]) == 130
            assert saved(cut / "runs" / "RGLF")["global_step"] == 1
        assert main(["fit", *stage, "--resume", "auto"]) == 0
    first, second = (json.loads((folder / "runs" / "RGLF" / "result.json").read_text()) for folder in (whole, cut))
    assert first["metrics"] == second["metrics"]
    assert first["steps"] == second["steps"] == 4


def interrupted(folder: Path, *options: str) -> list[str]:
    """A stage of four steps that is stopped before its third, having saved and logged the second."""
    stop = {"class_path": "tests.tiny_run.Interrupted", "init_args": {"step": 2}}
    stage = ["--config", write_stage(folder, "RGLF"), "--trainer.max_steps", "4", "--trainer.log_every_n_steps", "1"]
    saving = write_yaml(
        folder / "saving.yaml",
        {"trainer": {"callbacks+": {"class_path": "callbacks.LastCheckpoint", "init_args": {"every_steps": 1}}}},
    )
    stage += ["--config", saving, *options]
    assert main(["fit", *stage, "--trainer.callbacks+", json.dumps(stop)]) == 130
    return stage


def test_a_run_whose_data_did_not_get_its_place_back_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = interrupted(tmp_path)
    path = tmp_path / "runs" / "RGLF" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    torch.save(checkpoint, path)
    capsys.readouterr()
    assert main(["fit", *stage, "--resume", "auto"]) == 2
    assert "made after batch 1 of epoch 0, but the data (ResumableBatches) cannot say" in capsys.readouterr().err
    assert saved(tmp_path / "runs" / "RGLF")["global_step"] == 2


def test_a_checkpoint_from_the_midst_of_a_step_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = interrupted(tmp_path)
    path = tmp_path / "runs" / "RGLF" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["place"] == {"epoch": 0, "batches": 2, "all_batches": 2, "settled": True}
    checkpoint["place"]["settled"] = False
    torch.save(checkpoint, path)
    assert main(["fit", *stage, "--resume", "auto"]) == 2
    assert "in the midst of an accumulated step" in capsys.readouterr().err


def test_a_run_that_goes_on_logs_each_step_once(tmp_path: Path) -> None:
    stage = interrupted(tmp_path)
    assert main(["fit", *stage, "--resume", "auto"]) == 0
    events = EventAccumulator(str(tmp_path / "runs" / "RGLF"))
    events.Reload()
    for name in ("train/loss", "train/gradient_norm", "throughput/questions_per_second"):
        assert [scalar.step for scalar in events.Scalars(name)] == [0, 1, 2, 3]
    assert [scalar.step for scalar in events.Scalars("val/loss")] == [3]


def test_a_second_fit_of_a_process_goes_on_with_the_logger_of_the_first(tmp_path: Path, make: Make) -> None:
    # two steps are an epoch of two batches; the logger is closed when the first fit ends
    batches = DataLoader([make([([(4, 2), (3, 1)], 0)], [((1, 2), (32, 64))])] * 2, batch_size=None)
    logger = TensorBoardLogger(tmp_path, name="", version="")
    for steps, checkpoint in ((2, None), (4, tmp_path / LAST_CHECKPOINT)):
        trainer = L.Trainer(
            default_root_dir=tmp_path,
            max_steps=steps,
            accelerator="cpu",
            logger=logger,
            log_every_n_steps=1,
            callbacks=[LastCheckpoint()],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        module = InstructionTuning(tiny_model, Optimization(lr=1e-2))
        module._log_hyperparams = False  # Lightning copies none that are frozen
        trainer.fit(module, batches, ckpt_path=checkpoint, weights_only=True)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [scalar.step for scalar in events.Scalars("train/loss")] == [0, 1, 2, 3]
