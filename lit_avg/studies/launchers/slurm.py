"""Runs as jobs of SLURM, through submitit: arrays where runs are alike, each waiting for those it needs.

All is kept in files, so the sweep itself may be stopped or killed: the jobs go on, and the next sweep knows them.
"""

import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec

from lit_avg.studies.launchers.launcher import Launcher
from lit_avg.studies.launchers.process import Command
from lit_avg.studies.launchers.saving_time import warn_told_too_late
from lit_avg.studies.launchers.slurm_queue import FOLDER, cancel_jobs, living_jobs, write_jobs
from lit_avg.studies.runs.plan import PlannedRun
from lit_avg.studies.runs.run_record import is_finished
from lit_avg.studies.spec.fingerprint import read_checked, source_of
from lit_avg.studies.spec.study import Study
from lit_avg.utils.arguments import check_number
from lit_avg.utils.command_line import LONGEST_WAIT
from lit_avg.utils.errors import UserError
from lit_avg.utils.locks import locked, owner_of


class SlurmLauncher(Launcher):
    """A job for each run, asking for what the study's `slurm:` says.

    Args:
        study: as for every launcher.
        poll: seconds between two looks.
    """

    def __init__(self, study: Study, poll: float = 5.0) -> None:
        super().__init__(study)
        check_number("poll", poll, above=0, most=LONGEST_WAIT)
        self.poll = poll

    def check(self) -> list[str]:
        """See `Launcher`."""
        _check_submitit()
        if shutil.which("sbatch") is None:
            raise UserError("--launcher slurm hands runs to sbatch, which is not here; call it on a login node")
        check_processes(self.study)
        return warn_told_too_late(self.study)

    def preview(self, runs: Sequence[PlannedRun]) -> list[str]:
        """See `Launcher`."""
        _check_submitit()
        check_processes(self.study)
        from lit_avg.studies.launchers.slurm_submit import scripts

        return ["", *warn_told_too_late(self.study), *scripts(self.study, runs)]

    def submit(self, runs: Mapping[PlannedRun, Sequence[PlannedRun]], command: Command) -> Sequence[PlannedRun]:
        """Also those that must wait for others, if those have jobs to wait for."""
        from lit_avg.studies.launchers.slurm_submit import job_groups, submit

        taken = list[PlannedRun]()
        with locked(self.study.out / FOLDER, wait=True):  # another sweep may be submitting the same
            jobs = living_jobs(self.study.out)
            free = [run for run in runs if run.identity not in jobs and not is_finished(run)]
            for group in job_groups([run for run in free if owner_of(run.directory) is None]):
                if any(parent.identity not in jobs for parent in runs[group[0]]):
                    continue
                submitted = submit(self.study, group, [jobs[it.identity] for it in runs[group[0]]], command)
                write_jobs(self.study.out, submitted)
                jobs |= submitted
                taken += group
        return taken

    def watch(self) -> Mapping[PlannedRun, int]:
        """See `Launcher`."""
        time.sleep(self.poll)
        return {}

    def queued(self) -> Collection[str]:
        """See `Launcher`."""
        return living_jobs(self.study.out).keys()

    def cancel(self) -> int:
        """See `Launcher`."""
        jobs = living_jobs(self.study.out)
        cancel_jobs(jobs)
        return len(jobs)


def check_processes(study: Study) -> None:
    """Every training asks for as many processes as SLURM is asked to start; otherwise each would train by itself.

    Raises:
        UserError: names the runs for which it is not so.
    """
    checked, asked = read_checked(study.out), (study.slurm.tasks, study.slurm.nodes)
    wrong = [
        f"  {run.name}: trainer.devices {wanted[0]} on trainer.num_nodes {wanted[1]}"
        for run in study.runs.values()
        if (wanted := checked[source_of(run)].processes) is not None and tuple(wanted) != asked
    ]
    if wrong:
        head = f"{study.path}: `slurm:` asks for {asked[0]} task(s) on {asked[1]} node(s), but these runs for others:"
        raise UserError("\n".join([head, *wrong]))


def _check_submitit() -> None:
    """submitit comes with the extra `cluster`; `status` and `cancel` do without it."""
    if find_spec("submitit") is None:
        raise UserError("--launcher slurm needs submitit; pip install -e '.[cluster]'")
