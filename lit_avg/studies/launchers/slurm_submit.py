"""Handing runs to SLURM through submitit: arrays where runs are alike, each waiting for those it needs."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError
from submitit.slurm import slurm

from lit_avg.studies.launchers.process import Command
from lit_avg.studies.launchers.slurm_job import SlurmJob
from lit_avg.studies.launchers.slurm_queue import FOLDER
from lit_avg.studies.runs.plan import PlannedRun
from lit_avg.studies.spec.study import Study
from lit_avg.utils.errors import UserError

_REQUEUES = 1000
"""How often submitit may requeue a job that reaches its limit: as often as the run needs."""


def job_groups(runs: Sequence[PlannedRun]) -> list[list[PlannedRun]]:
    """Runs that wait for the same ones, and so are alike to SLURM; each group after those it waits for."""
    by_parents: dict[tuple[Path, ...], list[PlannedRun]] = {}
    for run in runs:
        by_parents.setdefault(run.parents, []).append(run)
    return list(by_parents.values())


def submit(study: Study, group: Sequence[PlannedRun], after: Sequence[str], command: Command) -> dict[str, str]:
    """Submit a group; the job of each run, by the run's identity.

    Args:
        study: says what a job asks for.
        group: of `groups`.
        after: jobs that it waits for.
        command: what a run calls.

    Raises:
        UserError: sbatch refuses it, or does not reach SLURM.
    """
    python = f"{sys.executable} -P"
    executor = SlurmExecutor(folder=study.out / FOLDER / "%j", max_num_timeout=_REQUEUES, python=python)
    executor.update_parameters(**_parameters(study, after))
    processes = study.slurm.nodes * study.slurm.tasks
    try:
        with executor.batch():
            submitted = [executor.submit(SlurmJob(run, command, processes)) for run in group]
    except FailedJobError as error:
        reason = str(error).strip().splitlines() or ["it does not say why"]
        raise UserError(f"sbatch does not take {', '.join(run.label for run in group)}: {reason[-1]}") from error
    return {run.identity: job.job_id for run, job in zip(group, submitted, strict=True)}


def scripts(study: Study, runs: Sequence[PlannedRun]) -> list[str]:
    """What would be handed to sbatch, for people to read."""
    waiting = {run.directory: run.label for run in runs}
    texts = list[str]()
    for group in job_groups(runs):
        after = [f"<job of {waiting[parent]}>" for parent in group[0].parents if parent in waiting]
        parameters = _parameters(study, after)
        parameters["map_count"] = len(group) if len(group) > 1 else None
        folder = study.out / FOLDER / "%j"
        command = f"{sys.executable} -P -u -m submitit.core._submit {folder}"
        text = slurm._make_sbatch_string(command, folder, **parameters)  # pyright: ignore[reportPrivateUsage]
        texts.append("\n".join([f"# {', '.join(run.label for run in group)}", text]))
    return texts


def _parameters(study: Study, after: Sequence[str]) -> dict[str, Any]:
    """In submitit's words; what is not asked for is left out."""
    more: dict[str, Any] = {"requeue": True, "kill-on-invalid-dep": "yes"}
    options = study.slurm
    if after:
        more["dependency"] = f"afterok:{':'.join(after)}"
    parameters: dict[str, Any] = {
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
        "srun_args": [
            "--kill-on-bad-exit=1",  # a process that dies takes the others with it
            f"--cpus-per-task={options.cpus}",  # which srun does not take over from sbatch since SLURM 22.05
        ],
        "additional_parameters": more,
    }
    return {name: value for name, value in parameters.items() if value is not None}
