"""Doing the runs of a study on this machine: each after those it needs, several side by side where that is wanted."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Protocol

from lit_avg.studies.launchers.process import BUSY, Command, start
from lit_avg.studies.runs.plan import PlannedRun
from lit_avg.studies.runs.run_folder import FolderState, run_folder_state
from lit_avg.studies.runs.run_record import has_failed, is_finished
from lit_avg.utils.locks import owner_of

POLL_SECONDS = 1.0
"""How often runs in other hands are looked at."""


class SweepListener(Protocol):
    """Is told what happens; shows it to people."""

    def kept(self, runs: Sequence[PlannedRun]) -> None:
        """These were finished before."""
        ...

    def left(self, run: PlannedRun) -> None:
        """A run has failed before, and nobody has asked for it to be tried again."""
        ...

    def elsewhere(self, run: PlannedRun) -> None:
        """Another sweep is at work on a run."""
        ...

    def queued(self, run: PlannedRun) -> None:
        """A run was handed to the cluster, or has made room there and waits to go on."""
        ...

    def started(self, run: PlannedRun, found: FolderState) -> None:
        """A run was started, on what was found in its folder."""
        ...

    def ended(self, run: PlannedRun, well: bool, seconds: float, signal: int | None = None) -> None:
        """A run came to its end, well or not, or was killed by a signal."""
        ...


@dataclass(frozen=True)
class _Begun:
    run: PlannedRun
    at: float
    slot: int


@dataclass
class Sweep:
    """The state of doing a plan.

    Args:
        waiting: runs not yet started, each after those it needs.
        watcher: is told what happens.
        command: what a run calls.
        slots: one for each run that may go on at once: the GPUs it may use, None where nobody deals them out.
        retry: try again what has failed before.
    """

    waiting: list[PlannedRun]
    watcher: SweepListener
    command: Command
    slots: Sequence[str | None]
    retry: bool = False
    running: dict[BaseProcess, _Begun] = field(default_factory=dict[BaseProcess, _Begun])
    elsewhere: list[PlannedRun] = field(default_factory=list[PlannedRun])
    failed: list[PlannedRun] = field(default_factory=list[PlannedRun])

    def run(self) -> None:
        """Do what is not done. What depends on a failure is left; all else is brought to its end."""
        finished = [run for run in self.waiting if is_finished(run)]
        self.waiting = [run for run in self.waiting if run not in finished]
        self.watcher.kept(finished)
        self._leave_failed()
        try:
            while True:
                self._look_elsewhere()
                self._drop_dependants()
                self._start_what_is_ready()
                if not (self.running or self.waiting or self.elsewhere):
                    return
                self._await_one()
        finally:
            for process in self.running:  # left only by an exception, as when interrupted
                process.terminate()

    def _leave_failed(self) -> None:
        for run in [] if self.retry else [run for run in self.waiting if has_failed(run)]:
            self.waiting.remove(run)
            self.failed.append(run)
            self.watcher.left(run)

    def _drop_dependants(self) -> None:
        dropped = dependants(self.waiting, self.failed)
        self.waiting = [run for run in self.waiting if run not in dropped]

    def _look_elsewhere(self) -> None:
        """Take back what others have ended or left."""
        for run in [run for run in self.elsewhere if owner_of(run.directory) is None]:
            self.elsewhere.remove(run)
            if is_finished(run):
                self.watcher.kept([run])
            elif has_failed(run):
                self.failed.append(run)
                self.watcher.left(run)
            else:
                self.waiting.insert(0, run)

    def _start_what_is_ready(self) -> None:
        begun = [one.run for one in self.running.values()]
        unfinished = {run.directory for run in (*self.waiting, *self.elsewhere, *begun)}
        free = [slot for slot in range(len(self.slots)) if slot not in {one.slot for one in self.running.values()}]
        for run in [run for run in self.waiting if not unfinished.intersection(run.parents)]:
            if owner_of(run.directory) is not None:
                self.waiting.remove(run)
                self._found_elsewhere(run)
            elif free:
                self.waiting.remove(run)
                slot = free.pop(0)
                self.watcher.started(run, run_folder_state(run))
                process = start(run, self.command, self.slots[slot])
                self.running[process] = _Begun(run, time.monotonic(), slot)

    def _found_elsewhere(self, run: PlannedRun) -> None:
        self.elsewhere.append(run)
        self.watcher.elsewhere(run)

    def _await_one(self) -> None:
        by_sentinel = {process.sentinel: process for process in self.running}
        if not by_sentinel:
            time.sleep(POLL_SECONDS)
        for sentinel in wait(list(by_sentinel), POLL_SECONDS if self.elsewhere else None) if by_sentinel else ():
            process = by_sentinel[sentinel]  # pyright: ignore[reportArgumentType]  we gave it sentinels only
            process.join()
            begun = self.running.pop(process)
            if process.exitcode == BUSY:
                self._found_elsewhere(begun.run)
                continue
            well = process.exitcode == 0 and is_finished(begun.run)
            if not well:
                self.failed.append(begun.run)
            signal = -process.exitcode if process.exitcode is not None and process.exitcode < 0 else None
            self.watcher.ended(begun.run, well, time.monotonic() - begun.at, signal)


def dependants(runs: Sequence[PlannedRun], failed: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Those of `runs`, each after those it needs, that cannot be made because others failed."""
    missing = {run.directory for run in failed}
    cut_off: list[PlannedRun] = []
    for run in runs:
        if missing.intersection(run.parents):
            missing.add(run.directory)
            cut_off.append(run)
    return cut_off
