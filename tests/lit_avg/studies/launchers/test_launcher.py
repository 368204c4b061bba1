"""A launcher of a user's own: one file, named in a study or by the command."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lit_avg.commands import cancel as cancel_command
from lit_avg.commands import status as status_command
from lit_avg.commands import sweep as sweep_command
from lit_avg.studies.launchers.registry import (
    LAUNCHERS,
    build_launcher,
    chosen_launcher,
    note_launcher,
    noted_launchers,
)
from lit_avg.studies.launchers.standalone import command_line
from lit_avg.studies.runs.plan import plan
from lit_avg.studies.runs.run_record import is_finished
from lit_avg.studies.spec.launcher_options import LauncherConfig
from lit_avg.studies.spec.study import load_study
from lit_avg.utils.errors import UserError
from lit_avg.utils.locks import owner_of
from tests.lit_avg.studies.launchers.test_local import SWEEP, await_, calls
from tests.lit_avg.studies.toy_command import toy_command

WriteStudy = Callable[..., Path]

ROOT = str(Path(__file__).parents[4])

MODULE = '''
"""Each run in a process of its own, which waits for its turn and outlives the sweep."""

import os
import signal
import time
from pathlib import Path
from subprocess import Popen

from lit_avg.studies.launchers.launcher import Launcher
from lit_avg.studies.launchers.standalone import command_line
from lit_avg.studies.spec.study import Study


class OneByOne(Launcher):
    def __init__(self, study: Study, notes: Path = Path("pids"), turn="turn") -> None:
        super().__init__(study)
        self.notes = study.out / notes
        self.turn = study.out / turn
        self.children = []

    def submit(self, runs, command):
        ready = [run for run, after in runs.items() if not after]
        self.notes.mkdir(exist_ok=True)
        for run in ready:
            line = ["flock", str(self.turn), *command_line(run, command)]
            self.children.append(Popen(line, start_new_session=True))
            (self.notes / run.identity).write_text(str(self.children[-1].pid))
        return ready

    def watch(self):
        time.sleep(0.1)
        for child in self.children:
            child.poll()
        return {}

    def queued(self):
        return {note.name for note in self.notes.glob("*") if Path("/proc", note.read_text()).exists()}

    def cancel(self):
        queued = self.queued()
        for identity in queued:
            os.killpg(int((self.notes / identity).read_text()), signal.SIGTERM)
        return len(queued)


class Unfinished(Launcher):
    def queued(self):
        return ()


class Distant(OneByOne):
    def __init__(self, study: Study, host: str) -> None:
        super().__init__(study)


class Deaf(OneByOne):
    def queued(self):
        raise FileNotFoundError(2, "No such file or directory", "ssh")

    cancel = queued


class NoLauncher:
    pass
'''


@pytest.fixture(autouse=True)
def my_launchers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module on Python's path, also in processes; a fresh one in each test, since each has a folder of its own."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "my_launchers.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.delitem(sys.modules, "my_launchers", raising=False)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'modules'}:{ROOT}")


def sweep(study: Path, *options: str) -> int:
    return sweep_command.main([str(study), *options], toy_command)


def gated(tmp_path: Path, *names: str) -> Path:
    """Runs that wait until a file is there."""
    gate = tmp_path / "gate"
    for name in names:
        (tmp_path / f"{name}.yaml").write_text(f"model: {name}\nwait_for: {gate}\n")
    return gate


def test_a_study_is_swept_by_a_class_of_ones_own_seen_in_status_and_cancelled(
    write_study: WriteStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = gated(tmp_path, "second", "third")
    study = write_study(
        launcher={"class_path": "my_launchers.OneByOne", "init_args": {"notes": "notes", "turn": "a lock"}}
    )
    process = subprocess.Popen([sys.executable, "-c", SWEEP, str(study)], stdout=subprocess.PIPE, text=True)
    _, second, third = plan(load_study(study))
    await_(lambda: owner_of(second.directory) is not None or owner_of(third.directory) is not None)
    await_(lambda: len(list((tmp_path / "out" / "notes").iterdir())) == 3)
    status_command.main([str(study)])
    assert "3 runs: 1 done, 1 running, 1 queued" in capsys.readouterr().out
    assert cancel_command.main([str(study)]) == 0
    assert f"took back 2 job(s) of {study}" in capsys.readouterr().out
    printed, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "first (seed 0): done in" in printed
    await_(lambda: owner_of(second.directory) is None and owner_of(third.directory) is None)
    status_command.main([str(study)])
    assert "1 done, 1 interrupted, 1 to do" in capsys.readouterr().out
    gate.touch()
    assert sweep(study) == 0
    assert calls(study)["first (seed 0)"] == ["fit"]
    assert sorted(len(verbs) for verbs in calls(study).values()) in ([1, 1, 3], [1, 2, 2])  # one was begun twice
    assert all(is_finished(run) for run in plan(load_study(study)))


def test_what_vanishes_from_a_launchers_queue_is_submitted_again(
    write_study: WriteStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = gated(tmp_path, "first")
    study = write_study()
    first = plan(load_study(study))[0]

    def kill() -> None:
        await_((first.directory / "calls.txt").exists)
        owner = owner_of(first.directory)
        assert owner is not None
        os.kill(owner.pid, signal.SIGKILL)
        gate.touch()

    killer = threading.Thread(target=kill)
    killer.start()
    assert sweep(study, "--launcher", "my_launchers.OneByOne") == 0
    killer.join()
    assert calls(study) == {
        "first (seed 0)": ["fit", "fit"],
        "second (seed 0)": ["fit", "test"],
        "third (seed 0)": ["fit"],
    }
    assert capsys.readouterr().out.count("first (seed 0): submitted") == 2


def test_a_failed_run_is_left_by_any_launcher_with_what_depends_on_it(
    write_study: WriteStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "first.yaml").write_text("fail: true\n")
    assert sweep(write_study(launcher="my_launchers.OneByOne")) == 1
    printed = capsys.readouterr().out
    assert "the lights went out" in printed
    assert "not made: second (seed 0), third (seed 0)" in printed


def test_a_command_line_does_one_run_from_any_folder(write_study: WriteStudy, tmp_path: Path) -> None:
    study = write_study(threads=2)
    assert sweep(study, "--dry-run") == 0
    first = plan(load_study(study))[0]
    line = command_line(first, toy_command)
    assert subprocess.run(line, check=False, cwd="/").returncode == 0
    assert is_finished(first)
    assert (first.directory / "log.txt").read_text() == "fit first with seed 0 and 2 thread(s)\n"


def test_the_command_goes_before_the_study_and_takes_its_arguments_where_it_names_the_same(
    write_study: WriteStudy,
) -> None:
    study = load_study(write_study(launcher={"class_path": LAUNCHERS["slurm"], "init_args": {"poll": 2}}))
    configs = [chosen_launcher(study, named) for named in (None, "slurm", "local")]
    assert [(it.class_path, it.init_args) for it in configs] == [("slurm", {"poll": 2})] * 2 + [("local", {})]
    given = {"jobs": 3, "poll": None}
    assert vars(build_launcher(study, configs[0], given))["poll"] == 2.0
    assert vars(build_launcher(study, configs[0], given | {"poll": 7.5}))["poll"] == 7.5
    assert len(vars(build_launcher(study, configs[2], given))["slots"]) == 3
    assert chosen_launcher(load_study(write_study())).class_path == "local"


def test_a_sweep_notes_its_launcher_for_status_and_cancel(write_study: WriteStudy, tmp_path: Path) -> None:
    study = write_study(launcher={"class_path": "my_launchers.OneByOne", "init_args": {"notes": "notes"}})
    for options in ((), ("--launcher", "local")):
        assert sweep(study, *options) == 0
    configs = {config.class_path: config.init_args for config in noted_launchers(load_study(study))}
    assert configs == {"local": {}, "my_launchers.OneByOne": {"notes": "notes"}}
    note = tmp_path / "out" / "launchers" / "local.json"
    assert json.loads(note.read_text()) == {}
    note.write_text("")
    with pytest.raises(UserError, match=f"{note} cannot be read .*; remove it, or sweep again with that launcher"):
        list(noted_launchers(load_study(study)))


def test_a_launcher_that_nobody_answers_keeps_neither_status_nor_the_jobs_of_another(
    write_study: WriteStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = load_study(path := write_study())
    (notes := tmp_path / "out" / "notes").mkdir(parents=True)
    for name in ("Deaf", "OneByOne"):
        note_launcher(study, LauncherConfig(f"my_launchers.{name}", {"notes": "notes"}))
    waiting = subprocess.Popen(["sleep", "60"], start_new_session=True)
    (notes / plan(study)[0].identity).write_text(str(waiting.pid))
    assert status_command.main([str(path)]) == 0
    said = capsys.readouterr().out
    assert "3 runs: 1 queued, 2 to do" in said
    assert "which runs are queued is not known: [Errno 2] No such file or directory: 'ssh'" in said
    with pytest.raises(UserError, match="ssh"):
        cancel_command.main([str(path)])
    assert "took back 1 job(s)" in capsys.readouterr().out
    assert waiting.wait(10) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("launcher", "mistake"),
    [
        ("lokal", r"must be local, slurm or a class such as my_module\.MyLauncher, but is lokal"),
        ("my_launcher.OneByOne", r"my_launcher\.OneByOne: No module named 'my_launcher'; .* \(PYTHONPATH\)"),
        ("my_launchers.OneByTwo", r"my_launchers\.OneByTwo: module 'my_launchers' has no attribute 'OneByTwo'"),
        (
            "my_launchers.NoLauncher",
            r"my_launchers\.NoLauncher does not extend lit_avg\.studies\.launchers\.launcher\.Launcher",
        ),
        ("my_launchers.Unfinished", r"my_launchers\.Unfinished lacks cancel, submit"),
        ("my_launchers.Distant", r"my_launchers\.Distant: its constructor, .*: missing a required argument: 'host'"),
        ({"class_path": "local", "init_args": {"jbs": 2}}, r"local: .*jbs"),
        ({"class_path": "local", "init_args": {"jobs": "two"}}, r"local: .*jobs(.|\n)*two"),
    ],
)
def test_what_is_no_launcher_or_has_other_arguments_is_refused_with_its_line(
    launcher: object, mistake: str, write_study: WriteStudy
) -> None:
    path = write_study(launcher=launcher)
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if text.startswith("launcher:"))
    with pytest.raises(UserError, match=rf"^{path}:{line}: launcher {mistake}") as raised:
        build_launcher(study := load_study(path), chosen_launcher(study))
    assert len(str(raised.value).splitlines()) <= 2
    if isinstance(launcher, str):
        with pytest.raises(UserError, match=f"--launcher {mistake}"):
            build_launcher(study := load_study(write_study()), chosen_launcher(study, launcher))


def test_what_is_no_section_of_a_launcher_is_told_with_the_other_mistakes(write_study: WriteStudy) -> None:
    path = write_study(launcher={"class_pth": "local", "init_args": 3}, threads=0)
    with pytest.raises(UserError) as raised:
        load_study(path)
    for mistake in (
        "launcher.class_path: is missing; give the path of a class, such as my_module.MyLauncher",
        "launcher.init_args: must be `name: value` lines of arguments, but is 3",
        "launcher.class_pth: is not a key that belongs here",
        "threads: must be at least 1, but is 0",
    ):
        assert mistake in str(raised.value)
