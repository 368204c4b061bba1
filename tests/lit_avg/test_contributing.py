"""What CONTRIBUTING.md says of adding something is all that it takes: its examples are put in place and run."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lit_avg.cli import main
from lit_avg.commands import sweep
from lit_avg.config.saved_config import read_saved
from lit_avg.studies.runs.plan import plan
from lit_avg.studies.runs.run_record import is_finished
from lit_avg.studies.spec.study import load_study
from tests.drawn import drawn_shards
from tests.lit_avg.studies.toy_command import toy_command
from tests.tiny_run import write_stage

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """What stands under a heading."""
    (found,) = re.findall(rf"^### {title}\n(.*?)(?=^##|\Z)", GUIDE, re.DOTALL | re.MULTILINE)
    return found


def blocks(title: str, language: str) -> list[str]:
    """The code under a heading, in one language."""
    return re.findall(rf"```{language}\n(.*?)```", section(title), re.DOTALL)


def apply(diff: str, root: Path) -> None:
    """Change files as a diff without line numbers says: `--- file`, then lines to find and lines to put there."""
    name, *lines = diff.splitlines()
    path = root / name.removeprefix("--- ")
    for hunk in "\n".join(lines).split("@@\n"):
        before, after = (
            "".join(f"{line[1:]}\n" for line in hunk.splitlines() if line[:1] in (" ", sign)) for sign in "-+"
        )
        assert path.read_text(encoding="utf-8").count(before) == 1, f"{name} has not, or not once:\n{before}"
        path.write_text(path.read_text(encoding="utf-8").replace(before, after), encoding="utf-8")


@pytest.mark.slow
def test_a_pooling_is_added_in_one_file(tmp_path: Path) -> None:
    for package in ("lit_avg", "datamodules", "callbacks", "tests", "experiments"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "data"))
    (diff,) = blocks("Pooling", "diff")
    apply(diff, tmp_path)
    stage = write_stage(tmp_path, "MultiGranularityTuning")
    command = [sys.executable, "-m", "lit_avg.cli", "fit", "--config", stage]
    command += ["--model.init_args.model.init_args.pooling", "min"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=300
    )
    assert done.returncode == 0, done.stderr
    config = (tmp_path / "runs" / "MultiGranularityTuning" / "config.yaml").read_text(encoding="utf-8")
    assert "pooling: min" in config


@pytest.mark.slow
def test_a_data_set_is_added_in_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,), (config,) = blocks("Data set", "python"), blocks("Data set", "yaml")
    (tmp_path / "birds.py").write_text(code, encoding="utf-8")
    shards = drawn_shards(tmp_path, samples=12)
    (tmp_path / "birds.yaml").write_text(config.replace("data/birds", str(shards)), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    fit = ["fit", "--config", str(ROOT / "experiments" / "real-smoke" / "stage1.yaml")]
    fit += ["--config", str(tmp_path / "birds.yaml"), "--run_root", str(tmp_path / "runs")]
    assert main(fit) == 0
    data = read_saved(tmp_path / "runs" / "stage1" / "config.yaml")["data"]
    assert data["class_path"] == "birds.Birds"
    assert data["init_args"]["train"] == str(shards)
    assert data["init_args"]["batch_size"] == 4  # as the config beneath says
    assert main([*fit, "--overwrite", "--data.init_args.batch_sise", "2"]) == 2
    assert "batch_sise" in capsys.readouterr().err
    sys.modules.pop("birds", None)


def test_a_launcher_is_added_in_one_file(
    tmp_path: Path, write_study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,), (section,) = blocks("Launcher", "python"), blocks("Launcher", "yaml")
    (tmp_path / "lamp.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))  # of the processes that it starts
    study = write_study(**yaml.safe_load(section))
    assert sweep.main([str(study)], toy_command) == 0
    assert all(is_finished(run) for run in plan(load_study(study)))
    sys.modules.pop("lamp", None)
