"""One run by a command line, for launchers that hand it to a shell, a scheduler or another machine.

A run and what it calls are put into a file, so that it is the run that was planned, whatever becomes of the study.
"""

import os
import pickle
import sys
from pathlib import Path

from lit_avg.studies.launchers.process import Command, execute
from lit_avg.studies.runs.plan import PlannedRun
from lit_avg.utils.atomic_io import write_whole

TASKS = "tasks"
"""Folder, inside that of all runs, of what was handed out."""


def command_line(run: PlannedRun, command: Command) -> list[str]:
    """What does a run, in a process of its own, wherever the study's folders are.

    Its exit status is that of `execute`, and what it prints goes to the run's `log.txt`.
    """
    task = Path(run.out, TASKS, f"{run.identity}.pickle").absolute()
    write_whole(task, pickle.dumps((Path.cwd(), run, command)))
    return [sys.executable, "-P", "-m", "lit_avg.studies.launchers.standalone", str(task)]


def main(task: Path) -> int:
    """Do the run that a file holds."""
    with task.open("rb") as file:
        folder, run, command = pickle.load(file)  # written by `command_line`
    os.chdir(folder)  # paths of studies begin there
    os.environ["OMP_NUM_THREADS"] = str(run.threads)  # torch is not loaded yet, and begins with it
    return execute(run, command)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
