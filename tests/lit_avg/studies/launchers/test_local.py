import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lit_avg.commands import sweep as sweep_command
from lit_avg.studies.launchers.process import CHANGED, do_commands, was_changed
from lit_avg.studies.launchers.sweep import dependants
from lit_avg.studies.runs.plan import PlannedRun, plan
from lit_avg.studies.runs.run_record import Record, own_record, read_record, write_record
from lit_avg.studies.spec.overrides import Run
from lit_avg.studies.spec.study import load_study
from lit_avg.utils.locks import owner_of
from tests.lit_avg.studies.toy_command import toy_command

WriteStudy = Callable[..., Path]

SWEEP = """
import sys
from lit_avg.commands import sweep as sweep_command
from lit_avg.studies.launchers import process as execution
from tests.lit_avg.studies.toy_command import toy_command
execution.PRELOADED = ["torch"]
sys.exit(sweep_command.main(sys.argv[1:], toy_command))
"""
"""A sweep in a process of its own, without what only real runs need."""


def sweep(study: Path, *options: str) -> int:
    return sweep_command.main([str(study), *options], toy_command)


def calls(study: Path) -> dict[str, list[str]]:
    """What each run's folder has seen called, in order."""
    seen = {run.label: run.directory / "calls.txt" for run in plan(load_study(study))}
    return {label: path.read_text().split() if path.exists() else [] for label, path in seen.items()}


def test_a_sweep_does_every_run_once_and_ends_in_a_table_and_figures(
    write_study: WriteStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(seeds=[0, 1])
    assert sweep(study) == 0
    each = {"first": ["fit"], "second": ["fit", "test"], "third": ["fit"]}
    assert calls(study) == {f"{name} (seed {seed})": verbs for seed in (0, 1) for name, verbs in each.items()}
    out = load_study(study).out
    for name in ("table.md", "table.csv", "figures/selection.png", "figures/accuracy_tokens.png"):
        assert (out / name).stat().st_size > 0, name
    printed = capsys.readouterr().out
    assert "third (seed 1): done in 0:0" in printed
    assert f"tensorboard --logdir {out}" in printed
    assert "with seed 0 and 1 thread(s)" in (out / "seed-0" / "first" / "log.txt").read_text()

    assert sweep(study) == 0
    assert calls(study) == {f"{name} (seed {seed})": verbs for seed in (0, 1) for name, verbs in each.items()}
    assert "6 of 6 runs were done before" in capsys.readouterr().out


def test_two_jobs_run_side_by_side_once_their_parents_are_done(write_study: WriteStudy, tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"out/seed-0/{name}/calls.txt" for name in ("first", "second", "third"))
    (tmp_path / "second.yaml").write_text(f"wait_for: {third}\n")
    (tmp_path / "third.yaml").write_text(f"wait_for: {second}\n")
    assert sweep(write_study(), "--jobs", "2") == 0  # one after the other, each would wait for ever
    assert first.stat().st_mtime <= min(second.stat().st_mtime, third.stat().st_mtime)


def test_a_failed_run_shows_its_log_names_what_depends_on_it_and_is_tried_again_if_asked(
    write_study: WriteStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study()
    (tmp_path / "first.yaml").write_text("fail: true\n")
    assert sweep(study) == 1
    printed = capsys.readouterr().out
    assert "first (seed 0): failed" in printed
    assert "the lights went out" in printed
    assert "not made: second (seed 0), third (seed 0)" in printed
    assert sweep(study) == 1
    printed = capsys.readouterr().out
    assert "first (seed 0): failed before" in printed
    assert "the lights went out" in printed
    assert calls(study)["first (seed 0)"] == ["fit"]
    assert sweep(study, "--retry") == 1
    assert calls(study)["first (seed 0)"] == ["fit", "fit"]


def test_a_changed_config_moves_the_old_run_aside_and_makes_it_anew(write_study: WriteStudy, tmp_path: Path) -> None:
    study = write_study()
    assert sweep(study) == 0
    (tmp_path / "third.yaml").write_text("accuracy: 0.9\n")
    assert sweep(study) == 0
    assert {label: len(verbs) for label, verbs in calls(study).items()} == {
        "first (seed 0)": 1,
        "second (seed 0)": 2,
        "third (seed 0)": 1,
    }
    assert (tmp_path / "out" / "replaced" / "seed-0-third-1" / "result.json").is_file()


def test_a_run_whose_result_is_lost_is_made_anew(write_study: WriteStudy, tmp_path: Path) -> None:
    study = write_study()
    assert sweep(study) == 0
    (tmp_path / "out" / "seed-0" / "third" / "result.json").unlink()
    assert sweep(study) == 0
    assert calls(study)["third (seed 0)"] == ["fit"]


def test_a_run_that_was_killed_between_fit_and_test_is_only_tested(write_study: WriteStudy) -> None:
    study = write_study()
    assert sweep(study) == 0
    second = plan(load_study(study))[1]
    write_record(second.directory, Record(second.identity, ("fit",)))
    assert sweep(study) == 0
    assert calls(study)["second (seed 0)"] == ["fit", "test", "test"]


def test_a_config_that_changes_while_its_run_is_made_is_not_passed_over(
    write_study: WriteStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, gate = tmp_path / "third.yaml", tmp_path / "gate"
    config.write_text(f"wait_for: {gate}\n")
    third = tmp_path / "out" / "seed-0" / "third" / "calls.txt"

    def edit() -> None:
        await_(third.exists)
        config.write_text("accuracy: 0.9\n")
        gate.touch()

    editor = threading.Thread(target=edit)
    editor.start()
    assert sweep(write_study()) == 1
    editor.join()
    assert "its configs changed since third (seed 0) was planned" in capsys.readouterr().out
    assert sweep(write_study()) == 0


@pytest.mark.parametrize("moment", ["before", "during"])
def test_a_run_is_not_trained_on_another_studys_parent(moment: str, write_study: WriteStudy, tmp_path: Path) -> None:
    study = write_study()
    assert sweep(study) == 0
    first, second, _ = plan(load_study(study))
    (second.directory / "result.json").unlink()
    write_record(second.directory, Record(second.identity))
    foreign = Record("another study's", ("fit",))

    def replaced(arguments: list[str]) -> int:
        write_record(first.directory, foreign)
        return toy_command(arguments)

    if moment == "before":
        write_record(first.directory, foreign)
    assert do_commands(second, replaced) == CHANGED
    assert own_record(second) == Record(second.identity)
    assert calls(study)["second (seed 0)"] == ["fit", "test", *(["fit"] if moment == "during" else [])]


def test_what_does_not_depend_on_a_failure_is_done_all_the_same(write_study: WriteStudy, tmp_path: Path) -> None:
    (tmp_path / "second.yaml").write_text("fail: true\n")
    study = write_study()
    assert sweep(study) == 1
    assert calls(study) == {"first (seed 0)": ["fit"], "second (seed 0)": ["fit"], "third (seed 0)": ["fit"]}


def test_a_config_that_cannot_be_read_any_more_counts_as_changed(
    write_study: WriteStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = plan(load_study(write_study()))[0]
    (tmp_path / "first.yaml").write_text("model: [\n")
    assert was_changed(first)
    assert "its configs, of which one cannot be read" in capsys.readouterr().out


def test_two_sweeps_at_once_do_nothing_twice(write_study: WriteStudy, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    (tmp_path / "third.yaml").write_text(f"wait_for: {gate}\n")
    study = write_study(seeds=[0, 1])
    other = subprocess.Popen([sys.executable, "-c", SWEEP, str(study)], stdout=subprocess.PIPE, text=True)
    third = plan(load_study(study))[2]
    await_((third.directory / "calls.txt").exists)
    threading.Timer(2, gate.touch).start()
    assert sweep(study, "--jobs", "2") == 0
    said, _ = other.communicate(timeout=300)
    assert other.returncode == 0, said
    each = {"first": ["fit"], "second": ["fit", "test"], "third": ["fit"]}
    assert calls(study) == {f"{name} (seed {seed})": verbs for seed in (0, 1) for name, verbs in each.items()}


def test_kill_9_ends_the_runs_as_well_and_the_same_command_goes_on(write_study: WriteStudy, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    (tmp_path / "third.yaml").write_text(f"wait_for: {gate}\n")
    study = write_study()
    process = subprocess.Popen([sys.executable, "-c", SWEEP, str(study)], stdout=subprocess.DEVNULL)
    third = plan(load_study(study))[2]
    await_(lambda: (third.directory / "calls.txt").exists())
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    await_(lambda: owner_of(third.directory) is None)
    gate.touch()
    assert sweep(study) == 0
    assert calls(study) == {
        "first (seed 0)": ["fit"],
        "second (seed 0)": ["fit", "test"],
        "third (seed 0)": ["fit"] * 2,
    }
    third = plan(load_study(study))[2]
    assert read_record(third.directory) == Record(third.identity, ("fit",))


def test_dependants_are_found_through_others() -> None:
    a, b, c, d = (
        PlannedRun(name, 0, Path(name), (), "", (Path(parent),), ("",), 1, (), Run(name, ()), "", Path())
        for name, parent in ("ax", "ba", "cb", "dx")
    )
    assert dependants([a, b, c, d], [a]) == [b, c]


def test_a_record_that_cannot_be_read_counts_as_none(tmp_path: Path) -> None:
    for text in ("", "{", "[]", json.dumps({"identity": "1"})):
        (tmp_path / "identity.json").write_text(text)
        assert read_record(tmp_path) is None, text


def await_(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)
