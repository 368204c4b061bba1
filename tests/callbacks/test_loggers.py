"""A run logs all it can to whatever logger it has, and says what is left out."""

import csv
import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from lit_avg.cli import main
from tests.tiny_run import write_stage

TOLD = "histograms of the granularities chosen and images with their answers are drawn for TensorBoard only; this run "


def loggers(run: Path, *names: str) -> str:
    """As `--trainer.logger` takes them."""
    return json.dumps(
        [{"class_path": f"lightning.pytorch.loggers.{name}", "init_args": {"save_dir": str(run)}} for name in names]
    )


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "TensorBoard" in record.getMessage()]


def test_savings_go_to_any_logger_and_what_it_cannot_show_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage, run = write_stage(tmp_path, "RGLF"), tmp_path / "runs" / "RGLF"
    twice = ["--trainer.max_steps", "4", "--trainer.val_check_interval", "2"]
    assert main(["fit", "--config", stage, *twice, "--trainer.logger", loggers(run, "CSVLogger")]) == 0
    (written,) = run.rglob("metrics.csv")
    with written.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["savings/token_share"]]
    assert [row["step"] for row in rows] == ["1", "3"]  # Lightning counts steps from 0
    assert all(0 < float(row[f"savings/{share}"]) <= 1 for row in rows for share in ("token_share", "llm_flops_share"))
    assert told(caplog) == [f"{TOLD}logs to CSVLogger"]


def test_a_run_without_any_logger_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stage, run = write_stage(tmp_path, "RGLF"), tmp_path / "runs" / "RGLF"
    assert main(["fit", "--config", stage, "--trainer.logger", "false"]) == 0
    assert told(caplog) == [f"{TOLD}has no logger, so its curves are not kept either"]
    assert (run / "selection.csv").is_file()
    assert not list(run.rglob("events.*"))


def test_a_run_that_has_tensorboard_beside_another_logger_draws(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage, run = write_stage(tmp_path, "RGLF"), tmp_path / "runs" / "RGLF"
    both = loggers(run, "CSVLogger", "TensorBoardLogger")
    assert main(["fit", "--config", stage, "--trainer.logger", both]) == 0
    assert told(caplog) == []
    assert [len(list(run.rglob(name))) for name in ("metrics.csv", "events.*")] == [1, 1]


@pytest.mark.parametrize(("logger", "package"), [("WandbLogger", "wandb"), ("CometLogger", "comet-ml")])
def test_a_logger_that_is_not_installed_is_told_in_one_line(
    logger: str, package: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if find_spec(package.replace("-", "_")) is not None:
        pytest.skip(f"{package} is installed")
    stage = write_stage(tmp_path, "RGLF")
    assert main(["fit", "--config", stage, "--trainer.logger", f"lightning.pytorch.loggers.{logger}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lit-avg: ")
    assert package in line
