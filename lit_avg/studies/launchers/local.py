"""Runs in processes of this machine, several side by side where that is wanted. They end with the sweep."""

from collections.abc import Collection, Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from lit_avg.studies.launchers.launcher import POLL_SECONDS, Launcher
from lit_avg.studies.launchers.process import Command, start
from lit_avg.studies.launchers.resources import assign_gpus, visible_gpus, warn_oversubscribed
from lit_avg.studies.runs.plan import PlannedRun
from lit_avg.studies.spec.study import Study


class LocalLauncher(Launcher):
    """A process for each run, forked from one that has loaded what takes long.

    Args:
        study: as for every launcher.
        jobs: runs that may go on at once; the GPUs that this process may use are shared out among them.
    """

    reports_exits = True

    def __init__(self, study: Study, jobs: int = 1) -> None:
        super().__init__(study)
        self.slots = assign_gpus(jobs, visible_gpus())
        self._running: dict[BaseProcess, tuple[PlannedRun, int]] = {}

    def check(self) -> list[str]:
        """See `Launcher`."""
        return warn_oversubscribed(len(self.slots), self.study.threads)

    def submit(self, runs: Mapping[PlannedRun, Sequence[PlannedRun]], command: Command) -> Sequence[PlannedRun]:
        """See `Launcher`."""
        used = {slot for _, slot in self._running.values()}
        free = [slot for slot in range(len(self.slots)) if slot not in used]
        ready = [run for run, after in runs.items() if not after][: len(free)]
        for run, slot in zip(ready, free, strict=False):
            self._running[start(run, command, self.slots[slot])] = run, slot
        return ready

    def watch(self) -> Mapping[PlannedRun, int]:
        """See `Launcher`."""
        by_sentinel = {process.sentinel: process for process in self._running}
        exits = dict[PlannedRun, int]()
        for sentinel in wait(list(by_sentinel), POLL_SECONDS):
            process = by_sentinel[sentinel]  # pyright: ignore[reportArgumentType]  we gave it sentinels only
            process.join()
            run, _ = self._running.pop(process)
            exits[run] = process.exitcode or 0
        return exits

    def queued(self) -> Collection[str]:
        """Those of this sweep; what another one is at is known by its lock."""
        return {run.identity for run, _ in self._running.values()}

    def cancel(self) -> int:
        """None are left once the sweep was stopped."""
        return 0

    def close(self) -> None:
        """See `Launcher`."""
        for process in self._running:  # left only by an exception, as when interrupted
            process.terminate()
