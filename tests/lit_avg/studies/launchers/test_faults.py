"""What may go wrong around a sweep: nothing is lost, and nothing is done twice."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lit_avg.studies.runs.plan import plan
from lit_avg.studies.runs.run_record import is_finished, read_record
from lit_avg.studies.spec.study import load_study
from lit_avg.utils.locks import owner_of
from tests.lit_avg.studies.launchers.test_local import SWEEP, await_, calls, sweep

WriteStudy = Callable[..., Path]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)]
    if subprocess.run(["mount", *options], capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount a small file system")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_fails_the_run_and_the_same_command_goes_on_once_there_is_room(
    small_disk: Path, write_study: WriteStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "third.yaml").write_text("fill: 1000000\n")
    study = write_study(out=str(small_disk))
    assert sweep(study) == 1
    assert "third (seed 0): failed" in capsys.readouterr().out
    first, second, third = plan(load_study(study))
    assert is_finished(first)
    assert is_finished(second)
    assert read_record(third.directory) is not None  # the old record is whole, though there was no room for a new one
    (third.directory / "filling").unlink()
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert sweep(study) == 0, capsys.readouterr().out
    assert calls(study) == {
        "first (seed 0)": ["fit"],
        "second (seed 0)": ["fit", "test"],
        "third (seed 0)": ["fit", "fit"],
    }


def test_a_run_killed_with_9_is_no_failure_of_its_own_and_goes_on_with_the_next_sweep(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    (tmp_path / "third.yaml").write_text(f"wait_for: {gate}\n")
    study = write_study()
    process = subprocess.Popen([sys.executable, "-c", SWEEP, str(study)], stdout=subprocess.PIPE, text=True)
    third = tmp_path / "out" / "seed-0" / "third"
    await_((third / "calls.txt").exists)
    owner = owner_of(third)
    assert owner is not None
    os.kill(owner.pid, signal.SIGKILL)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "third (seed 0): was killed by signal 9 (out of memory?) after " in said
    gate.touch()
    assert sweep(study) == 0  # without --retry
    assert calls(study)["third (seed 0)"] == ["fit", "fit"]
    assert calls(study)["second (seed 0)"] == ["fit", "test"]


def test_a_changed_dependency_makes_anew_what_comes_after_it_too(write_study: WriteStudy, tmp_path: Path) -> None:
    study = write_study()
    assert sweep(study) == 0
    (tmp_path / "first.yaml").write_text("accuracy: 0.9\n")
    assert sweep(study) == 0
    assert calls(study) == {"first (seed 0)": ["fit"], "second (seed 0)": ["fit", "test"], "third (seed 0)": ["fit"]}
    replaced = {path.name for path in (tmp_path / "out" / "replaced").iterdir()}
    assert replaced == {f"seed-0-{name}-1" for name in ("first", "second", "third")}
