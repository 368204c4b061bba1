"""Doing the runs of a study: each after those it needs, several side by side where that is wanted."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

from lit_avg.studies import execution
from lit_avg.studies.plan import PlannedRun
from lit_avg.studies.records import Record, is_finished, read_record, unfinished_commands, write_record

REPLACED = "replaced"
"""Folder, inside a study's, of runs whose config has changed since."""


_Begun = tuple[PlannedRun, float]
"""A run, and when it was started."""


class Watcher(Protocol):
    """Is told what happens; shows it to people."""

    def kept(self, runs: Sequence[PlannedRun]) -> None:
        """These were finished before."""
        ...

    def replaced(self, run: PlannedRun, where: Path) -> None:
        """What lay in a run's folder was made differently or has lost its result, and is now elsewhere."""
        ...

    def started(self, run: PlannedRun, goes_on: bool) -> None:
        """A run was started, or goes on where it was interrupted."""
        ...

    def ended(self, run: PlannedRun, well: bool, seconds: float) -> None:
        """A run came to its end, well or not."""
        ...


@dataclass
class Sweep:
    """The state of doing a plan.

    Args:
        out: the study's folder.
        waiting: runs not yet started, each after those it needs.
        jobs: how many runs are done side by side.
        watcher: is told what happens.
        command: what a run calls.
    """

    out: Path
    waiting: list[PlannedRun]
    jobs: int
    watcher: Watcher
    command: execution.Command
    running: dict[BaseProcess, _Begun] = field(default_factory=dict[BaseProcess, _Begun])
    failed: list[PlannedRun] = field(default_factory=list[PlannedRun])

    def run(self) -> None:
        """Do what is not done. After a failure what runs is brought to its end, and nothing new is started."""
        finished = [run for run in self.waiting if is_finished(run)]
        self.waiting = [run for run in self.waiting if run not in finished]
        self.watcher.kept(finished)
        try:
            while self.running or (self.waiting and not self.failed):
                self._start_what_is_ready()
                self._await_one()
        finally:
            for process in self.running:  # left only by an exception, as when interrupted
                process.terminate()

    def _start_what_is_ready(self) -> None:
        unfinished = {run.directory for run in self.waiting} | {run.directory for run, _ in self.running.values()}
        ready = [run for run in self.waiting if not unfinished.intersection(run.parents)]
        for run in ready[: self.jobs - len(self.running)] if not self.failed else ():
            self.waiting.remove(run)
            goes_on = self._claim(run)
            self.watcher.started(run, goes_on)
            self.running[execution.start(run, self.command)] = run, time.monotonic()

    def _claim(self, run: PlannedRun) -> bool:
        """Make a run's folder its own; True if the folder holds an interrupted attempt at this very run."""
        record = read_record(run.directory)
        if record is not None and record.identity == run.identity and unfinished_commands(run):
            return True
        if run.directory.exists():
            self.watcher.replaced(run, _move_aside(run, self.out / REPLACED))
        run.directory.mkdir(parents=True)
        write_record(run.directory, Record(run.identity))
        return False

    def _await_one(self) -> None:
        by_sentinel = {process.sentinel: process for process in self.running}
        for sentinel in wait(list(by_sentinel)):
            process = by_sentinel[sentinel]  # pyright: ignore[reportArgumentType]  we gave it sentinels only
            process.join()
            run, begun = self.running.pop(process)
            well = process.exitcode == 0 and is_finished(run)
            if not well:
                self.failed.append(run)
            self.watcher.ended(run, well, time.monotonic() - begun)


def dependants(runs: Sequence[PlannedRun], failed: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Those of `runs`, each after those it needs, that cannot be made because others failed."""
    missing = {run.directory for run in failed}
    cut_off: list[PlannedRun] = []
    for run in runs:
        if missing.intersection(run.parents):
            missing.add(run.directory)
            cut_off.append(run)
    return cut_off


def _move_aside(run: PlannedRun, attic: Path) -> Path:
    attic.mkdir(parents=True, exist_ok=True)
    number = 1
    while (place := attic / f"seed-{run.seed}-{run.name}-{number}").exists():
        number += 1
    os.rename(run.directory, place)  # noqa: PTH104  Path.rename hides that this is one atomic step
    return place
