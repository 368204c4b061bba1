"""What a SLURM job does: one run, in as many processes as the run asks for.

One owner of the signal: SLURM sends USR2 before a job's limit, submitit answers it by requeueing the job, and while a
fit is on, `callbacks.Preemption` holds the answer back until the step is done and saved. Lightning's own requeueing
listens to USR1, which nobody sends.
"""

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from submitit.core.utils import DelayedSubmission

from lit_avg.studies.launchers.process import Command, execute
from lit_avg.studies.launchers.slurm_queue import FOLDER
from lit_avg.studies.runs.plan import PlannedRun
from lit_avg.utils.atomic_io import write_whole
from lit_avg.utils.errors import UserError

_PATIENCE_SECONDS = 300
"""How long the other processes wait for the first to claim the run."""


@dataclass(frozen=True)
class SlurmJob:
    """Called by submitit in every process of the job.

    Args:
        run: what is done.
        command: what it calls.
        processes: how many there must be of them.
    """

    run: PlannedRun
    command: Command
    processes: int

    def __call__(self) -> None:
        """Do what is not done; the exit status says how it went.

        Raises:
            UserError: SLURM has started another number of processes.
        """
        rank, processes = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
        if processes != self.processes:
            raise UserError(
                f"{self.run.label} is for {self.processes} process(es), but SLURM has started {processes}; "
                "nodes x tasks of the study's `slurm:` must be the trainer's num_nodes x devices"
            )
        os.environ["OMP_NUM_THREADS"] = str(self.run.threads)  # torch is not loaded yet, and begins with it
        status = self._lead() if rank == 0 else self._follow()
        if status:
            sys.exit(status)

    def checkpoint(self) -> DelayedSubmission:
        """What submitit requeues when the job has to make room: the same again, it goes on from where it is."""
        return DelayedSubmission(self)

    def _lead(self) -> int:
        place = self._announcement()
        return execute(self.run, self.command, lambda verbs: write_whole(place, json.dumps(verbs)))

    def _follow(self) -> int:
        """Call what the first process calls, once it has made the folder the run's own."""
        place, deadline = self._announcement(), time.monotonic() + _PATIENCE_SECONDS
        while not place.exists():
            if time.monotonic() > deadline:
                raise UserError(f"the first process of {self.run.label} has not come up within {_PATIENCE_SECONDS} s")
            time.sleep(0.2)
        for verb in json.loads(place.read_text(encoding="utf-8")):
            arguments = next(command for command in self.run.commands if command[0] == verb)
            if status := self.command(list(arguments)):
                return status
        return 0

    def _announcement(self) -> Path:
        """A file that is this start's own."""
        restart = os.environ.get("SLURM_RESTART_COUNT", "0")
        return self.run.out / FOLDER / f"started-{os.environ['SLURM_JOB_ID']}-{restart}.json"
