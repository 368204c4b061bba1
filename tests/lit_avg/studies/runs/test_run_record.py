"""How runs stand is told without reading what they measured, and yet no damaged result is taken for one."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lit_avg.studies.runs import run_record
from lit_avg.studies.runs.plan import PlannedRun, plan
from lit_avg.studies.runs.run_record import read_record, states, write_record
from tests.lit_avg.studies.stored import stored_study


@pytest.fixture
def runs(tmp_path: Path) -> list[PlannedRun]:
    return list(plan(stored_study(tmp_path)))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Results that were read."""
    read, plainly = list[Path](), run_record.read_entries
    monkeypatch.setattr(run_record, "read_entries", lambda path, *rest: read.append(path) or plainly(path, *rest))
    run_record._read_proof.cache_clear()  # pyright: ignore[reportPrivateUsage]  as in a new process
    return read


def test_how_finished_runs_stand_is_told_without_reading_their_results(
    runs: list[PlannedRun], read: list[Path]
) -> None:
    assert set(states(runs).values()) == {"done"}
    assert read == []


def test_runs_that_were_copied_or_are_of_an_earlier_version_are_read(
    runs: list[PlannedRun], read: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(runs[0].out, tmp_path / "copy")
    shutil.rmtree(runs[0].out)
    shutil.move(tmp_path / "copy", runs[0].out)
    record = read_record(runs[0].directory)
    assert record is not None
    write_record(runs[0].directory, replace(record, proof=None))
    assert set(states(runs).values()) == {"done"}
    assert sorted(read) == sorted(run.proof for run in runs)


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"metric": {}})])
def test_a_result_that_was_damaged_since_is_not_done_though_its_time_and_size_are_the_same(
    content: str, runs: list[PlannedRun]
) -> None:
    proof = runs[0].proof
    found = proof.stat()
    proof.write_text(content.ljust(found.st_size))
    os.utime(proof, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert proof.stat().st_size == found.st_size
    run_record._read_proof.cache_clear()  # pyright: ignore[reportPrivateUsage]  as in a new process
    assert states(runs)[runs[0]] == "failed"
    assert list(states(runs).values()).count("done") == len(runs) - 1
    proof.unlink()
    assert states(runs)[runs[0]] != "done"
