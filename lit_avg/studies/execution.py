"""One run in a process of its own, which begins with torch imported, writes to a log and dies with the sweep.

The processes are forked from a server that has imported what takes long, once. The server holds no state of ours.
"""

import fcntl
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

from lit_avg.errors import UserError
from lit_avg.studies.plan import PlannedRun
from lit_avg.studies.records import Record, read_record, unfinished_commands, write_record

LOG = "log.txt"
LOCK = ".lock"

Command = Callable[[list[str]], int]
"""A command line: takes arguments, returns the exit status. `lit_avg.cli.main`, but for tests."""

_PRELOADED = ["lightning.pytorch.cli", "transformers", "torch.utils.tensorboard", "lit_avg.training_cli", "callbacks"]


def start(run: PlannedRun, command: Command) -> BaseProcess:
    """Start whatever of a run is not done yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    process = context.Process(target=execute, args=(run, command), name=run.label)
    process.start()
    return process


def execute(run: PlannedRun, command: Command) -> None:
    """Do the commands of a run that are not done, in this process; exit with the status of the first that fails."""
    import torch  # here, in the run's own process, it is already loaded

    _die_with_the_sweep()
    torch.set_num_threads(run.threads)
    run.directory.mkdir(parents=True, exist_ok=True)
    with locked(run.directory, wait=True):  # the dying process of a killed sweep may still be writing
        _log_to(run.directory / LOG)
        for arguments in unfinished_commands(run):
            if status := command(list(arguments)):
                sys.exit(status)
            record = read_record(run.directory) or Record(run.identity)
            write_record(run.directory, replace(record, finished=(*record.finished, arguments[0])))


@contextmanager
def locked(directory: Path, wait: bool = False) -> Generator[None]:
    """Hold a folder against other processes; the system lets go of it when this one ends, however it ends.

    Raises:
        UserError: another process holds it, and `wait` is off.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise UserError(f"another sweep is at work in {directory}; wait for it or stop it") from error
        yield


def log_lines(run: PlannedRun, count: int) -> list[str]:
    """The last lines a run has written, without empty ones."""
    try:
        with (run.directory / LOG).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 200 * count))
            text = log.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]


def _log_to(path: Path) -> None:
    """Send everything this process prints, in Python or below, to a file."""
    with path.open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)


def _die_with_the_sweep() -> None:
    """Let no run outlive a sweep that was killed: the next sweep will want its folder."""
    sweep = multiprocessing.parent_process()

    def watch() -> None:
        if sweep is not None:
            sweep.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
