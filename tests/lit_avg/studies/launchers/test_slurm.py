"""Studies on a real SLURM, which the tests start themselves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lit_avg.commands import cancel as cancel_command
from lit_avg.commands import status as status_command
from lit_avg.commands import sweep as sweep_command
from lit_avg.studies.launchers.slurm_queue import living_jobs
from lit_avg.studies.runs.plan import plan
from lit_avg.studies.spec.study import load_study
from lit_avg.utils.errors import UserError
from lit_avg.utils.locks import owner_of
from tests.lit_avg.studies.launchers.test_local import SWEEP
from tests.lit_avg.studies.slurm import NODES, Slurm, missing, wait_for
from tests.lit_avg.studies.toy_command import toy_command

WriteStudy = Callable[..., Path]

pytestmark = pytest.mark.slow

ROOT = str(Path(__file__).parents[4])


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    if reason := missing():
        pytest.skip(reason)
    cluster = Slurm(tmp_path_factory.mktemp("slurm"))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = ROOT  # the jobs' python must find the tests' toy command
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


def sweep(study: Path, *options: str) -> int:
    return sweep_command.main([str(study), "--launcher", "slurm", "--poll", "1", *options], toy_command)


def calls(study: Path) -> dict[str, str]:
    return {run.label: (run.directory / "calls.txt").read_text() for run in plan(load_study(study))}


def in_background(study: Path) -> tuple[threading.Thread, list[int]]:
    status = list[int]()
    thread = threading.Thread(target=lambda: status.append(sweep(study)))
    thread.start()
    return thread, status


def test_a_study_with_shared_parents_runs_to_its_table(
    slurm: Slurm, write_study: WriteStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(seeds=[0, 1])
    assert sweep(study) == 0, capsys.readouterr().out
    each = {"first": "fit\n", "second": "fit\ntest\n", "third": "fit\n"}
    assert calls(study) == {f"{name} (seed {seed})": verbs for seed in (0, 1) for name, verbs in each.items()}
    out = load_study(study).out
    assert "| router | 2 |" in (out / "table.md").read_text()
    jobs = json.loads((out / "slurm" / "jobs.json").read_text())
    assert (
        len({job.partition("_")[0] for job in jobs.values()}) == 3
    )  # an array of two firsts, one of each seed's others
    assert sweep(study) == 0
    assert calls(study)["first (seed 0)"] == "fit\n"


def test_a_process_gets_its_cores_of_srun_too_which_does_not_take_them_over_from_sbatch(
    slurm: Slurm, write_study: WriteStudy
) -> None:
    forget = ["unset SLURM_CPUS_PER_TASK"]  # what sbatch set, so that a step has its own srun's number or none
    study = write_study(slurm={"cpus": 2, "setup": forget}, runs={"second": {"configs": ["second.yaml"], "test": True}})
    assert sweep(study) == 0
    (run,) = plan(load_study(study))
    assert (run.directory / "cpus.txt").read_text() == "2"


def test_a_worker_killed_with_9_is_submitted_again_and_the_study_ends_complete(
    slurm: Slurm, write_study: WriteStudy, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    (tmp_path / "first.yaml").write_text(f"wait_for: {gate}\n")
    study = write_study()
    thread, status = in_background(study)
    first = tmp_path / "out" / "seed-0" / "first"
    wait_for(lambda: (first / "calls.txt").is_file() and owner_of(first), "first")
    owner = owner_of(first)
    assert owner is not None
    os.kill(owner.pid, signal.SIGKILL)
    gate.touch()
    thread.join()
    assert status == [0]
    assert calls(study)["first (seed 0)"] == "fit\nfit\n"
    assert calls(study)["second (seed 0)"] == "fit\ntest\n"


def test_a_preempted_job_is_requeued_and_goes_on(slurm: Slurm, write_study: WriteStudy, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    (tmp_path / "first.yaml").write_text(f"wait_for: {gate}\n")
    study = write_study()
    thread, status = in_background(study)
    first = tmp_path / "out" / "seed-0" / "first"
    wait_for(lambda: (first / "calls.txt").is_file() and owner_of(first), "first")
    urgent = ["sbatch", "--partition=urgent", f"--nodes={len(NODES)}", "--exclusive", "--wrap=true", "--wait"]
    subprocess.run([*urgent, f"--output={tmp_path}/urgent.txt"], check=True, capture_output=True, timeout=240)
    gate.touch()
    thread.join()
    assert status == [0]
    assert calls(study)["first (seed 0)"] == "fit\nfit\n"  # the same job once more, not another
    assert list((tmp_path / "out" / "slurm").glob("started-*-1.json"))


def test_usr2_before_the_limit_requeues_the_job(
    slurm: Slurm, write_study: WriteStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = tmp_path / "gate"
    (tmp_path / "first.yaml").write_text(f"wait_for: {gate}\n")
    study = write_study()
    thread, status = in_background(study)
    heard = list[str]()

    def told(what: str) -> bool:
        heard.append(capsys.readouterr().out)
        return f"first (seed 0): {what}\n" in "".join(heard)

    wait_for(lambda: told("started"), "the first start")
    (job,) = {job for job in living_jobs(tmp_path / "out").values() if job} - pending(tmp_path / "out")
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    wait_for(lambda: told("goes on from where it was interrupted"), "the second start")
    assert told("submitted")
    assert told("interrupted, and waits to go on")
    gate.touch()
    thread.join()
    assert status == [0]
    assert calls(study)["first (seed 0)"] == "fit\nfit\n"


def pending(out: Path) -> set[str]:
    done = subprocess.run(["squeue", "-h", "--array", "-t", "PENDING", "-o", "%i"], capture_output=True, text=True)
    return set(done.stdout.split())


def test_a_killed_slurmd_loses_nothing(slurm: Slurm, write_study: WriteStudy, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    (tmp_path / "first.yaml").write_text(f"wait_for: {gate}\n")
    study = write_study()
    thread, status = in_background(study)
    first = tmp_path / "out" / "seed-0" / "first"
    wait_for(lambda: (first / "calls.txt").is_file() and owner_of(first), "first")
    for name in NODES:
        slurm.kill_node(name)
    time.sleep(1)
    for name in NODES:
        slurm.start_node(name)
    gate.touch()
    thread.join()
    assert status == [0]
    assert calls(study)["second (seed 0)"] == "fit\ntest\n"


def test_cancel_takes_the_jobs_back_and_the_next_sweep_goes_on(
    slurm: Slurm, write_study: WriteStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = tmp_path / "gate"
    (tmp_path / "first.yaml").write_text(f"wait_for: {gate}\n")
    study = write_study()
    command = [sys.executable, "-c", SWEEP, str(study), "--launcher", "slurm"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    first = tmp_path / "out" / "seed-0" / "first"
    wait_for(lambda: (first / "calls.txt").is_file() and owner_of(first), "first")
    capsys.readouterr()
    assert status_command.main([str(study)]) == 0
    told = capsys.readouterr().out
    assert "1 running, 2 queued" in told
    assert "job " in told
    assert cancel_command.main([str(study)]) == 0
    assert "took back 3 job(s)" in capsys.readouterr().out
    assert process.wait(60) != 0
    wait_for(lambda: owner_of(first) is None, "the job's end")
    gate.touch()
    assert sweep(study) == 0


def test_a_failed_run_is_told_and_not_submitted_again(
    slurm: Slurm, write_study: WriteStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "first.yaml").write_text("fail: true\n")
    study = write_study()
    assert sweep(study) == 1
    printed = capsys.readouterr().out
    assert "the lights went out" in printed
    assert "not made: second (seed 0), third (seed 0)" in printed
    assert (tmp_path / "out" / "seed-0" / "first" / "calls.txt").read_text() == "fit\n"


def test_other_processes_than_the_run_asks_for_are_refused_before_anything_is_submitted(
    slurm: Slurm, write_study: WriteStudy
) -> None:
    study = write_study(slurm={"nodes": 2, "tasks": 1})
    with pytest.raises(UserError, match=r"asks for 1 task\(s\) on 2 node\(s\)(.|\n)*first: trainer.devices 1"):
        sweep(study)


@pytest.mark.skipif(shutil.which("sbatch") is None, reason="sbatch is not installed (Debian: slurm-wlm)")
def test_a_slurm_that_does_not_answer_is_told_and_nothing_counts_as_submitted(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "slurm.conf").write_text("ClusterName=gone\nSlurmctldHost=localhost\nSlurmctldPort=1\n")
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    with pytest.raises(UserError, match=r"sbatch does not take first \(seed 0\): sbatch: error"):
        sweep(write_study())
    assert "submitted" not in capsys.readouterr().out


def test_a_dry_run_prints_the_scripts_without_any_slurm(
    write_study: WriteStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    asks = {"partition": "gpu", "account": "me", "time": 90, "gpus": 1, "memory": 32, "setup": ["module load cuda"]}
    assert sweep(write_study(seeds=[0, 1], slurm=asks), "--dry-run") == 0
    printed = capsys.readouterr().out
    for line in (
        "# first (seed 0), first (seed 1)",
        "#SBATCH --array=0-1%2",
        "#SBATCH --partition=gpu",
        "#SBATCH --account=me",
        "#SBATCH --time=90",
        "#SBATCH --gpus-per-node=1",
        "#SBATCH --mem=32G",
        "#SBATCH --signal=USR2@90",
        "#SBATCH --dependency='afterok:<job of first (seed 0)>'",
        "module load cuda",
    ):
        assert line in printed.splitlines(), line
