"""Doing a plan through a launcher: each run after those it needs, nothing twice, what was lost again.

What a launcher takes on is known by its word (`Launcher.queued`) and by the runs' folders: a lock there says who is at
work, a record how far it came. So other sweeps, of whichever launcher, may be at the same study.
"""

import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from lit_avg.studies.launchers.launcher import Launcher
from lit_avg.studies.launchers.process import BUSY, Command
from lit_avg.studies.runs.plan import PlannedRun
from lit_avg.studies.runs.run_folder import FolderState, run_folder_state
from lit_avg.studies.runs.run_record import has_failed, is_finished, own_record
from lit_avg.utils.locks import owner_of

ATTEMPTS = 5
"""How often a run may vanish without a word before it counts as failed."""


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
        """A run was handed to a queue, or has made room there and waits to go on."""
        ...

    def started(self, run: PlannedRun, state: FolderState) -> None:
        """A run was started, on what was in its folder."""
        ...

    def ended(self, run: PlannedRun, well: bool, seconds: float, signal: int | None = None) -> None:
        """A run came to its end, well or not, or was killed by a signal."""
        ...


@dataclass
class Sweep:
    """The state of doing a plan.

    Args:
        launcher: does the runs.
        waiting: runs not yet done, each after those it needs.
        listener: is told what happens.
        command: what a run calls.
        retry: try again what has failed before.
    """

    launcher: Launcher
    waiting: list[PlannedRun]
    listener: SweepListener
    command: Command
    retry: bool = False
    failed: list[PlannedRun] = field(default_factory=list[PlannedRun])
    elsewhere: set[PlannedRun] = field(default_factory=set[PlannedRun])
    at_work: set[PlannedRun] = field(default_factory=set[PlannedRun])
    attempts: Counter[PlannedRun] = field(default_factory=Counter[PlannedRun])
    submitted_at: dict[PlannedRun, float] = field(default_factory=dict[PlannedRun, float])
    states: dict[PlannedRun, FolderState] = field(default_factory=dict[PlannedRun, FolderState])
    """In what state those that have not begun were submitted."""

    def run(self) -> None:
        """Do what is not done. What depends on a failure is left; all else is brought to its end."""
        finished = [run for run in self.waiting if is_finished(run)]
        self.waiting = [run for run in self.waiting if run not in finished]
        self.listener.kept(finished)
        for run in [] if self.retry else [run for run in self.waiting if has_failed(run)]:
            self._leave(run)
        self._drop_dependants()
        try:
            queued, changed = self.launcher.queued() if self.waiting else (), True
            while self.waiting:
                if changed:
                    self._submit(queued)
                exits = self.launcher.watch()
                queued = self.launcher.queued()  # before a look at the folders: what has left it has left its traces
                elsewhere = len(self.elsewhere)
                for run in list(self.waiting):
                    self._look(run, exits.get(run), run.identity in queued)
                # where exits are reported, folders are not looked into before one comes: they may be many, and far away
                changed = bool(exits) or len(self.elsewhere) < elsewhere or not self.launcher.reports_exits
                self._drop_dependants()
        finally:
            self.launcher.close()

    def _drop_dependants(self) -> None:
        dropped = dependants(self.waiting, self.failed)
        self.waiting = [run for run in self.waiting if run not in dropped]

    def _submit(self, queued: Collection[str]) -> None:
        """Offer the launcher what nobody has."""
        undone = {run.directory: run for run in self.waiting}
        free = dict[PlannedRun, list[PlannedRun]]()
        for run in self.waiting:
            if run.identity in queued or run in self.elsewhere:
                continue
            if owner_of(run.directory) is not None:
                self._is_elsewhere(run)
            else:
                free[run] = [undone[parent] for parent in run.parents if parent in undone]
        states: dict[PlannedRun, FolderState] = {run: run_folder_state(run) for run in free}  # before one may begin
        for run in self.launcher.submit(free, self.command) if free else ():
            self.attempts[run] += 1
            self.submitted_at[run] = time.monotonic()
            if self.launcher.reports_exits:
                self.listener.started(run, states[run])
            else:
                self.states[run] = states[run]
                self.listener.queued(run)

    def _look(self, run: PlannedRun, status: int | None, queued: bool) -> None:
        """Take note of whether a run has begun, made room or ended."""
        if status is not None:
            self._exited(run, status)
        elif run in self.elsewhere:
            self._look_elsewhere(run)
        elif self.launcher.reports_exits:
            return
        elif is_finished(run):
            record = own_record(run)
            self._ended(run, well=True, seconds=record.seconds if record else 0.0)
        elif owner_of(run.directory) is not None:
            if run not in self.at_work:
                self.at_work.add(run)
                self.listener.started(run, self.states.pop(run, "goes on"))
        elif not queued and self._is_lost(run):
            self._ended(run, well=False, seconds=0.0)
        elif run in self.at_work:
            self.at_work.remove(run)
            self.listener.queued(run)

    def _exited(self, run: PlannedRun, status: int) -> None:
        if status == BUSY:
            self._is_elsewhere(run)
            return
        signal = -status if status < 0 else None
        seconds = time.monotonic() - self.submitted_at[run]
        self._ended(run, status == 0 and is_finished(run), seconds, signal)

    def _is_elsewhere(self, run: PlannedRun) -> None:
        self.elsewhere.add(run)
        self.listener.elsewhere(run)

    def _look_elsewhere(self, run: PlannedRun) -> None:
        """Take back what others have ended or left."""
        if owner_of(run.directory) is not None:
            return
        self.elsewhere.remove(run)
        if is_finished(run):
            self.waiting.remove(run)
            self.listener.kept([run])
        elif has_failed(run):
            self._leave(run)

    def _is_lost(self, run: PlannedRun) -> bool:
        """Whether a run that nobody has is not to be submitted again."""
        failed = has_failed(run) and (self.attempts[run] > 0 or not self.retry)
        return failed or self.attempts[run] >= ATTEMPTS

    def _leave(self, run: PlannedRun) -> None:
        self.waiting.remove(run)
        self.failed.append(run)
        self.listener.left(run)

    def _ended(self, run: PlannedRun, well: bool, seconds: float, signal: int | None = None) -> None:
        self.waiting.remove(run)
        if not well:
            self.failed.append(run)
        self.listener.ended(run, well, seconds, signal)


def dependants(runs: Sequence[PlannedRun], failed: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Those of `runs`, each after those it needs, that cannot be made because others failed."""
    missing: set[Path] = {run.directory for run in failed}
    cut_off: list[PlannedRun] = []
    for run in runs:
        if missing.intersection(run.parents):
            missing.add(run.directory)
            cut_off.append(run)
    return cut_off
