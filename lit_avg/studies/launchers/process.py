"""One run in a process of its own, which begins with torch imported, writes to a log and dies with the sweep.

The processes are forked from a server that has imported what takes long, once. The server holds no state of ours.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

from lit_avg.studies.runs.plan import PlannedRun
from lit_avg.studies.runs.run_folder import acquire_run_folder
from lit_avg.studies.runs.run_record import (
    LOG,
    Record,
    is_finished,
    own_record,
    read_record,
    unfinished_commands,
    whole_proof,
    write_record,
)
from lit_avg.studies.spec.fingerprint import source_of
from lit_avg.utils.errors import UserError
from lit_avg.utils.locks import BusyError, locked

Command = Callable[[list[str]], int]
"""A command line: takes arguments, returns the exit status. `lit_avg.cli.main`, but for tests."""

BUSY = 75
"""Exit status of a process that found its run in other hands; EX_TEMPFAIL, what one may try again."""

CHANGED = 65
"""Exit status of a process whose run's configs, or a run before it, were changed; EX_DATAERR."""

STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit statuses of a command that somebody has stopped: no failure of its own."""

PRELOADED = ["lightning.pytorch.cli", "transformers", "torch.utils.tensorboard", "lit_avg.commands.fit", "callbacks"]
"""What every run needs and takes long to import."""


def start(run: PlannedRun, command: Command, gpus: str | None = None) -> BaseProcess:
    """Start whatever of a run is not done yet; `gpus` are those it may use, as CUDA numbers them."""
    return _start(_execute_here, run, command, gpus)


def call(arguments: Sequence[str], log: Path, command: Command) -> BaseProcess:
    """Start one command that is no run."""
    return _start(_call_here, arguments, log, command)


def execute(run: PlannedRun, command: Command, announce: Callable[[list[str]], None] = lambda verbs: None) -> int:
    """Do the commands of a run that are not done, in this process, unless another process is at it.

    Args:
        run: what is done.
        command: what it calls.
        announce: is told the verbs that will be called, once the run's folder is its own.

    Returns:
        The exit status of the first that fails, 0 without failure, `BUSY` if another process is at work on the run.
    """
    try:
        with locked(run.directory):
            if is_finished(run):  # by somebody else, since the run was planned
                announce([])
                return 0
            acquire_run_folder(run)
            log_to(run.directory / LOG)
            announce([command[0] for command in unfinished_commands(run)])
            return do_commands(run, command)
    except BusyError:
        return BUSY


def do_commands(run: PlannedRun, command: Command) -> int:
    """Do what is left of a claimed run, and keep its record. Returns the exit status."""
    record = replace(own_record(run) or Record(run.identity), failed=None)
    write_record(run.directory, record)
    for arguments in unfinished_commands(run):
        if was_changed(run):
            return CHANGED
        began = time.monotonic()
        try:
            status = command(list(arguments))
        except Exception:
            write_record(run.directory, replace(record, failed=1))
            raise
        if status:
            if status not in STOPPED:
                write_record(run.directory, replace(record, failed=status))
            return status
        if was_changed(run):
            return CHANGED
        seconds = record.seconds + time.monotonic() - began
        finished = (*record.finished, arguments[0])
        record = replace(record, finished=finished, seconds=round(seconds, 2), proof=whole_proof(run))
        write_record(run.directory, record)
    return 0


def was_changed(run: PlannedRun) -> bool:
    """Whether configs or runs before are others than when a run was planned; it must not go by its identity of then."""
    try:
        changed = [] if source_of(run.run) == run.source else ["its configs"]
    except (UserError, FileNotFoundError) as error:
        changed = [f"its configs, of which one cannot be read ({error}),"]
    for parent, identity in zip(run.parents, run.needs, strict=True):
        record = read_record(parent)
        changed += [] if record is not None and record.identity == identity else [f"{parent}, which it builds on,"]
    if changed:
        print(f"{changed[0]} changed since {run.label} was planned; sweep again", flush=True)
    return bool(changed)


def last_lines(log: Path, count: int) -> list[str]:
    """The last lines of a log, without empty ones."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 200 * count))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]


def log_to(path: Path) -> None:
    """Send everything this process prints, in Python or below, to a file."""
    with path.open("a", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False, encoding="utf-8")
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False, encoding="utf-8")


def _start(target: Callable[..., None], *arguments: object) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def _execute_here(run: PlannedRun, command: Command, gpus: str | None) -> None:
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    import torch  # here, in the run's own process, it is already loaded

    _die_with_the_sweep()
    torch.set_num_threads(run.threads)
    sys.exit(execute(run, command))


def _call_here(arguments: Sequence[str], log: Path, command: Command) -> None:
    _die_with_the_sweep()
    log_to(log)
    sys.exit(command(list(arguments)))


def _die_with_the_sweep() -> None:
    """Let no run outlive a sweep that was killed: the next sweep will want its folder."""
    sweep = multiprocessing.parent_process()

    def watch() -> None:
        if sweep is not None:
            sweep.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
