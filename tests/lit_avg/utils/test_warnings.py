import os
import subprocess
import sys
from pathlib import Path

import pytest

from lit_avg.utils.terminal import shown
from tests.tiny_run import write_stage

IN_ALL_PROCESSES = """
import multiprocessing, subprocess, sys, warnings
from lit_avg.cli import main

def warn():
    warnings.warn("only said")

if __name__ == "__main__":
    main(["--help"])
    warn()
    child = multiprocessing.get_context("spawn").Process(target=warn)
    child.start()
    child.join()
    other = subprocess.run([sys.executable, "-c", "import warnings; warnings.warn('only said')"])
    print("ended", child.exitcode, other.returncode)
"""


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("error", "default"),
        ("e", "default"),
        ("error::DeprecationWarning", "default::DeprecationWarning"),
        (" error:text:UserWarning:module:3", "default:text:UserWarning:module:3"),
        ("ignore", "ignore"),
        ("once::UserWarning", "once::UserWarning"),
        ("", ""),
    ],
)
def test_an_option_for_warnings_loses_its_error_alone(option: str, meant: str) -> None:
    assert shown(option) == meant


@pytest.mark.parametrize(
    ("options", "variable"),
    [([], "error"), (["-W", "error"], ""), ([], "ignore::DeprecationWarning,error::UserWarning")],
)
def test_no_process_of_ours_ends_by_a_warning_that_the_environment_would_raise(
    options: list[str], variable: str, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(IN_ALL_PROCESSES)
    environment = {**os.environ, "PYTHONWARNINGS": variable}
    command = [sys.executable, *options, str(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["ended 0 0"], done.stderr
    assert done.stderr.count("UserWarning: only said") == 3


def test_a_stage_is_fitted_where_the_environment_would_raise_warnings(tmp_path: Path) -> None:
    stage = write_stage(tmp_path, "MultiGranularityTuning")
    command = [sys.executable, "-m", "lit_avg.cli", "fit", "--config", stage]
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "MultiGranularityTuning" / "result.json").is_file()
