"""Handing runs to SLURM through submitit: arrays where runs are alike, each waiting for those it needs."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError
from submitit.slurm import slurm

from lit_avg.studies.launchers.process import Command
from lit_avg.studies.launchers.slurm_job import ClusterJob
from lit_avg.studies.launchers.slurm_queue import FOLDER
from lit_avg.studies.runs.plan import PlannedRun
from lit_avg.studies.spec.fingerprint import read_checked, source_of
from lit_avg.studies.spec.study import Study
from lit_avg.utils.errors import UserError

_REQUEUES = 1000
"""How often submitit may requeue a job that reaches its limit: as often as the run needs."""


def check_processes(study: Study) -> None:
    """Every training asks for as many processes as SLURM is asked to start; otherwise each would train by itself.

    Raises:
        UserError: names the runs for which it is not so.
    """
    known, asked = read_checked(study.out), (study.slurm.tasks, study.slurm.nodes)
    wrong = [
        f"  {run.name}: trainer.devices {wanted[0]} on trainer.num_nodes {wanted[1]}"
        for run in study.runs.values()
        if (wanted := known[source_of(run)].processes) is not None and tuple(wanted) != asked
    ]
    if wrong:
        head = f"{study.path}: `slurm:` asks for {asked[0]} task(s) on {asked[1]} node(s), but these runs for others:"
        raise UserError("\n".join([head, *wrong]))


def groups(runs: Sequence[PlannedRun]) -> list[list[PlannedRun]]:
    """Runs that wait for the same ones, and so are alike to SLURM; each group after those it waits for."""
    found: dict[tuple[Path, ...], list[PlannedRun]] = {}
    for run in runs:
        found.setdefault(run.parents, []).append(run)
    return list(found.values())


def submit(
    study: Study, group: Sequence[PlannedRun], jobs: Mapping[Path, str], command: Command
) -> dict[PlannedRun, str]:
    """Submit a group; the job of each run.

    Args:
        study: says what a job asks for.
        group: of `groups`.
        jobs: those of runs that are waited for, by the run's folder.
        command: what a run calls.

    Raises:
        UserError: sbatch refuses it, or does not reach SLURM.
    """
    python = f"{sys.executable} -P"
    executor = SlurmExecutor(folder=study.out / FOLDER / "%j", max_num_timeout=_REQUEUES, python=python)
    after = [jobs[parent] for parent in group[0].parents if parent in jobs]
    executor.update_parameters(**_parameters(study, after))
    processes = study.slurm.nodes * study.slurm.tasks
    try:
        with executor.batch():
            submitted = [executor.submit(ClusterJob(run, command, processes)) for run in group]
    except FailedJobError as error:
        said = str(error).strip().splitlines() or ["it does not say why"]
        raise UserError(f"sbatch does not take {', '.join(run.label for run in group)}: {said[-1]}") from error
    return {run: job.job_id for run, job in zip(group, submitted, strict=True)}


def scripts(study: Study, runs: Sequence[PlannedRun]) -> list[str]:
    """What would be handed to sbatch, for people to read."""
    waiting = {run.directory: run.label for run in runs}
    made = list[str]()
    for group in groups(runs):
        after = [f"<job of {waiting[parent]}>" for parent in group[0].parents if parent in waiting]
        parameters = _parameters(study, after)
        parameters["map_count"] = len(group) if len(group) > 1 else None
        folder = study.out / FOLDER / "%j"
        command = f"{sys.executable} -P -u -m submitit.core._submit {folder}"
        text = slurm._make_sbatch_string(command, folder, **parameters)  # pyright: ignore[reportPrivateUsage]
        made.append("\n".join([f"# {', '.join(run.label for run in group)}", text]))
    return made


def _parameters(study: Study, after: Sequence[str]) -> dict[str, Any]:
    """In submitit's words; what is not asked for is left out."""
    more: dict[str, Any] = {"requeue": True, "kill-on-invalid-dep": "yes"}
    options = study.slurm
    if after:
        more["dependency"] = f"afterok:{':'.join(after)}"
    asked: dict[str, Any] = {
        "job_name": study.path.stem,
        "partition": options.partition,
        "account": options.account,
        "time": options.time,
        "nodes": options.nodes,
        "ntasks_per_node": options.tasks,
        "gpus_per_node": options.gpus,
        "cpus_per_task": options.cpus,
        "mem": None if options.memory is None else f"{options.memory}G",
        "signal_delay_s": options.signal,
        "setup": list(options.setup) or None,
        "stderr_to_stdout": True,
        "srun_args": ["--kill-on-bad-exit=1"],  # a process that dies takes the others with it
        "additional_parameters": more,
    }
    return {name: value for name, value in asked.items() if value is not None}
