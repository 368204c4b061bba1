"""Doing a plan on SLURM: submit what can be, watch the queue and the folders, submit again what was lost.

All is kept in files, so the sweep itself may be stopped or killed: the jobs go on, and the next sweep knows them.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lit_avg.studies.launchers.local import SweepListener, dependants
from lit_avg.studies.launchers.process import Command
from lit_avg.studies.launchers.slurm_queue import FOLDER, living_jobs, write_jobs
from lit_avg.studies.launchers.slurm_submit import groups, submit
from lit_avg.studies.runs.plan import PlannedRun
from lit_avg.studies.runs.run_folder import FolderState, run_folder_state
from lit_avg.studies.runs.run_record import has_failed, is_finished, own_record
from lit_avg.studies.spec.study import Study
from lit_avg.utils.locks import locked, owner_of

ATTEMPTS = 5
"""How often a job may end without a word before its run counts as failed."""


@dataclass
class ClusterSweep:
    """The state of doing a plan on SLURM.

    Args:
        study: says what a job asks for.
        waiting: runs not yet done, each after those it needs.
        watcher: is told what happens.
        command: what a run calls.
        retry: try again what has failed before.
        poll: seconds between two looks.
    """

    study: Study
    waiting: list[PlannedRun]
    watcher: SweepListener
    command: Command
    retry: bool = False
    poll: float = 5.0
    failed: list[PlannedRun] = field(default_factory=list[PlannedRun])
    attempts: Counter[PlannedRun] = field(default_factory=Counter[PlannedRun])
    met: dict[PlannedRun, FolderState] = field(
        default_factory=dict[PlannedRun, FolderState]
    )  # by those that have not begun
    at_work: set[PlannedRun] = field(default_factory=set[PlannedRun])

    def run(self) -> None:
        """Do what is not done. What depends on a failure is left; all else is brought to its end."""
        finished = [run for run in self.waiting if is_finished(run)]
        self.waiting = [run for run in self.waiting if run not in finished]
        self.watcher.kept(finished)
        for run in [] if self.retry else [run for run in self.waiting if has_failed(run)]:
            self._give_up(run)
            self.watcher.left(run)
        while True:
            dropped = dependants(self.waiting, self.failed)
            self.waiting = [run for run in self.waiting if run not in dropped]
            if not self.waiting:
                return
            self._submit_what_has_no_job()
            time.sleep(self.poll)
            self._look()

    def _submit_what_has_no_job(self) -> None:
        with locked(self.study.out / FOLDER, wait=True):  # another sweep may be submitting the same
            jobs = living_jobs(self.study.out)
            known = {run.directory: jobs[run.identity] for run in self.waiting if run.identity in jobs}
            free = [run for run in self.waiting if run.directory not in known and not is_finished(run)]
            for group in groups([run for run in free if owner_of(run.directory) is None]):
                if needs_another(group[0], self.waiting, known):
                    continue
                met: list[FolderState] = [run_folder_state(run) for run in group]  # before a job may have begun
                submitted = submit(self.study, group, known, self.command)
                for run, found in zip(group, met, strict=True):
                    self.attempts[run] += 1
                    self.met[run] = found
                    self.watcher.queued(run)
                write_jobs(self.study.out, {run.identity: job for run, job in submitted.items()})
                known |= {run.directory: job for run, job in submitted.items()}

    def _look(self) -> None:
        """Take note of what has begun, made room or ended."""
        jobs = living_jobs(self.study.out)
        for run in list(self.waiting):
            owned = owner_of(run.directory) is not None
            if is_finished(run):
                self.waiting.remove(run)
                record = own_record(run)
                self.watcher.ended(run, well=True, seconds=record.seconds if record else 0.0)
            elif owned and run not in self.at_work:
                self.at_work.add(run)
                self.watcher.started(run, self.met.pop(run, "goes on"))
            elif not owned and run.identity not in jobs and self._is_lost(run):
                self._give_up(run)
                self.watcher.ended(run, well=False, seconds=0.0)
            elif not owned and run in self.at_work:
                self.at_work.remove(run)
                self.watcher.queued(run)

    def _is_lost(self, run: PlannedRun) -> bool:
        """Whether a run without a job is not to be submitted again."""
        failed = has_failed(run) and (self.attempts[run] > 0 or not self.retry)
        return failed or self.attempts[run] >= ATTEMPTS

    def _give_up(self, run: PlannedRun) -> None:
        self.waiting.remove(run)
        self.failed.append(run)


def needs_another(run: PlannedRun, waiting: Sequence[PlannedRun], jobs: Mapping[Path, str]) -> bool:
    """Whether a run needs one that is neither finished nor has a job to wait for."""
    undone = {other.directory for other in waiting}
    return any(parent in undone and parent not in jobs for parent in run.parents)
