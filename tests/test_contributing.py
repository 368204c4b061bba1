"""What CONTRIBUTING.md says of adding something is all that it takes: its examples are put in place and run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_run import write_stage

ROOT = Path(__file__).parents[1]
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
    (diff,) = blocks("A pooling", "diff")
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
