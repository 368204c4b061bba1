"""`lit-avg cancel STUDY`: stop its sweeps and runs and take back its jobs; the next sweep goes on from there."""

import os
import signal
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from lit_avg.studies.launchers.registry import build_launcher, noted_launchers
from lit_avg.studies.spec.study import load_study
from lit_avg.utils.command_line import VerbParser
from lit_avg.utils.errors import UserError
from lit_avg.utils.locks import Owner, locked, owner_of

ELSEWHERE = 1

_SWEEPS = "sweeps"
"""Folder, inside a study's, of the locks of its sweeps."""


@contextmanager
def announced(out: Path) -> Generator[None]:
    """Let `cancel` know of this sweep as long as it lasts, and stop it as Ctrl-C does.

    By SIGTERM: a shell script that puts a sweep into the background has it ignore SIGINT.
    """
    with locked(out / _SWEEPS / f"{socket.gethostname()}-{os.getpid()}"), _terminated_as_interrupted():
        yield


@contextmanager
def _terminated_as_interrupted() -> Generator[None]:
    if threading.current_thread() is not threading.main_thread():  # which alone receives signals
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: list[str]) -> int:
    """Run the verb.

    Args:
        argv: its arguments.

    Returns:
        The exit status: 0, or 1 where a sweep is at work on another machine and has to be stopped there.

    Raises:
        UserError: a launcher cannot take its jobs back.
    """
    parser = VerbParser(prog="lit-avg cancel", description=__doc__)
    parser.add_argument("study", help="a study file")
    study = load_study(parser.parse_args(argv).study, unchecked=True)
    status = 0
    for sweep in _sweeps(study.out):
        if sweep.host == socket.gethostname():
            os.kill(sweep.pid, signal.SIGTERM)
            print(f"stopped the sweep {sweep.pid}; its runs go on from where they are with the next one")
        else:
            print(f"a sweep is at work on {sweep.host} as process {sweep.pid}; stop it there")
            status = ELSEWHERE
    jobs, mistakes = 0, list[str]()
    for config in noted_launchers(study):
        try:
            jobs += build_launcher(study, config).cancel()
        except (UserError, OSError) as error:  # which must not keep the jobs of another
            mistakes.append(str(error))
    print(f"took back {jobs} job(s) of {study.path}")
    if mistakes:
        raise UserError("\n".join(mistakes))
    return status


def _sweeps(out: Path) -> list[Owner]:
    """The sweeps at work; what dead ones have left is removed."""
    sweeps = list[Owner]()
    for lock in (out / _SWEEPS).glob(".*.lock"):
        owner = owner_of(lock.with_name(lock.name.removeprefix(".").removesuffix(".lock")))
        if owner is None:
            lock.unlink(missing_ok=True)
        else:
            sweeps.append(owner)
    return sweeps
