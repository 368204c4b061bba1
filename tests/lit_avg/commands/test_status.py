import fcntl
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lit_avg import cli
from lit_avg.commands import logs as logs_command
from lit_avg.commands import status as status_command
from lit_avg.commands import sweep as sweep_command
from lit_avg.studies.launchers.registry import LAUNCHERS, chosen_launcher, note_launcher
from lit_avg.studies.launchers.slurm_queue import living_jobs, write_jobs
from lit_avg.studies.runs.plan import named_run, plan
from lit_avg.studies.runs.run_record import Record, write_record
from lit_avg.studies.spec.study import load_study
from lit_avg.utils.errors import UserError
from lit_avg.utils.locks import lock_of, locked
from tests.lit_avg.studies.toy_command import toy_command

WriteStudy = Callable[..., Path]

ROOT = Path(__file__).parents[3]


def status(study: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    assert status_command.main([str(study)]) == 0
    return [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]


def test_every_state_is_counted_and_what_needs_a_look_is_listed(
    write_study: WriteStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(seeds=[0, 1])
    first, second, third, other_first, other_second, _ = plan(load_study(study))
    for run, record in (
        (first, Record(first.identity, ("fit",), seconds=60)),
        (second, Record(second.identity, ("fit",))),
        (third, Record(third.identity, failed=3)),
        (other_second, Record("another")),
    ):
        run.directory.mkdir(parents=True)
        write_record(run.directory, record)
    (first.directory / "result.json").write_text('{"metrics": {}}')
    (third.directory / "log.txt").write_text("stage3\nout of memory\n")
    with locked(other_first.directory):
        lines = status(study, capsys)
    assert [line for line in lines if line.startswith("second (seed 0)") and "interrupted" in line]
    assert [line for line in lines if line.startswith("third (seed 0)") and "out of memory" in line]
    assert [line for line in lines if line.startswith("first (seed 1)") and "running" in line]
    # of the six, other_second's folder is another run's, and the last has none
    said = next(line for line in lines if line.startswith("6 runs"))
    assert said.startswith("6 runs: 1 done, 1 running, 1 failed, 1 interrupted, 2 to do; about 1:00 left")
    assert said.endswith("and 4 of unknown length; 1:00 computed")


def test_what_is_known_is_told_where_slurm_does_not_answer(
    write_study: WriteStudy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    study = write_study()
    note_launcher(load_study(study), chosen_launcher(load_study(study), "slurm"))
    write_jobs(load_study(study).out, {plan(load_study(study))[0].identity: "7"})
    (tmp_path / "squeue").write_text("#!/bin/sh\necho 'one line'>&2\necho 'no controller'>&2\nexit 1\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    told = status(study, capsys)
    assert told[:2] == [
        "3 runs: 3 to do; 0:00 computed",
        "which runs are queued is not known: squeue does not answer: no controller",
    ]


def test_logs_are_found_by_run_and_by_row(write_study: WriteStudy, capsys: pytest.CaptureFixture[str]) -> None:
    study = write_study(seeds=[3, 4])
    assert sweep_command.main([str(study)], toy_command) == 0
    for name in (["second", "--seed", "4"], ["router", "--seed", "4"], ["router:4"], ["second (seed 4)"]):
        capsys.readouterr()
        assert logs_command.main([str(study), *name, "--lines", "1"]) == 0
        assert capsys.readouterr().out == "test second with seed 4 and 1 thread(s)\n"


def test_where_a_run_and_a_row_have_one_name_the_run_is_meant(write_study: WriteStudy) -> None:
    row = {"run": "second", "policy": "router"}
    study = load_study(write_study(rows={"second": {**row, "set": {"k": 8}}, "a": row}, reference="a"))
    assert named_run(study, "second").name == "second"


def test_a_list_of_jobs_that_cannot_be_read_is_named(write_study: WriteStudy) -> None:
    study = write_study()
    jobs = load_study(study).out / "slurm" / "jobs.json"
    jobs.parent.mkdir(parents=True)
    jobs.write_text("{")
    with pytest.raises(UserError, match=r"jobs\.json cannot be read"):
        living_jobs(load_study(study).out)


def test_where_nobody_knows_what_configs_come_to_status_and_table_say_so(
    write_study: WriteStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study()
    assert sweep_command.main([str(study)], toy_command) == 0
    told = f"`lit-avg sweep {study} --dry-run` tells what is done"
    for there in (True, False):
        if not there:
            (load_study(study).out / "checked.json").unlink()
        for verb in ("status", "table"):
            capsys.readouterr()
            assert cli.main([verb, str(study)]) == 0
            assert (told in capsys.readouterr().out) != there


def test_a_look_at_a_lock_does_not_make_it_busy(tmp_path: Path) -> None:
    with lock_of(tmp_path / "run").open("w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.1, lambda: fcntl.flock(looking, fcntl.LOCK_UN)).start()
        with locked(tmp_path / "run"):
            pass


def test_a_run_that_is_not_there_is_told(write_study: WriteStudy) -> None:
    study = write_study()
    with pytest.raises(UserError, match="has no run secnd; did you mean second"):
        logs_command.main([str(study), "secnd"])
    with pytest.raises(UserError, match="has no seed 9; its seeds are 0"):
        logs_command.main([str(study), "second", "--seed", "9"])
    with pytest.raises(UserError, match="has printed nothing yet"):
        logs_command.main([str(study), "second"])


def test_cancel_stops_a_sweep_and_its_runs(write_study: WriteStudy, tmp_path: Path) -> None:
    from tests.lit_avg.studies.launchers.test_local import SWEEP, await_

    gate = tmp_path / "gate"
    (tmp_path / "first.yaml").write_text(f"wait_for: {gate}\n")
    study = write_study()
    in_the_background = "trap '' INT; exec " + shlex.join([sys.executable, "-c", SWEEP, str(study)])
    process = subprocess.Popen(["sh", "-c", in_the_background], stderr=subprocess.DEVNULL)
    await_((tmp_path / "out" / "seed-0" / "first" / "calls.txt").exists)
    assert cli.main(["cancel", str(study)]) == 0
    assert process.wait(60) != 0
    gate.touch()
    assert sweep_command.main([str(study)], toy_command) == 0
    assert (tmp_path / "out" / "seed-0" / "first" / "calls.txt").read_text() == "fit\nfit\n"


def test_status_and_cancel_load_neither_torch_nor_what_draws_nor_what_submits(write_study: WriteStudy) -> None:
    study, slow = write_study(), "torch lightning matplotlib pandas submitit jsonargparse"
    for launcher in LAUNCHERS:
        note_launcher(load_study(study), chosen_launcher(load_study(study), launcher))
    code = "import sys; from lit_avg.cli import main; status = main(sys.argv[1:]);"
    code += f"sys.exit(' '.join({{*{slow.split()}}} & set(sys.modules)) or status)"
    for verb in ("status", "cancel"):
        command = [sys.executable, "-c", code, verb, str(study)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stderr
