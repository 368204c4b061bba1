"""What a person sees of a sweep: a live line per run in a terminal, plain lines when piped."""

import time
from collections.abc import Sequence
from signal import SIGKILL
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lit_avg.studies.launchers.process import last_lines
from lit_avg.studies.runs.dry_run import clock
from lit_avg.studies.runs.plan import PlannedRun
from lit_avg.studies.runs.run_folder import REPLACED, FolderState
from lit_avg.studies.runs.run_record import LOG

_LINES_OF_A_FAILURE = 15


class Progress:
    """Tells what a sweep does; implements `lit_avg.studies.launchers.sweep.SweepListener`.

    Args:
        console: where to.
        total: runs of the study.
    """

    def __init__(self, console: Console, total: int) -> None:
        self.console = console
        self.total = total
        self._done = 0
        self._running: dict[PlannedRun, float] = {}
        self._queued: set[PlannedRun] = set()
        self._live = Live(get_renderable=self._lines, console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._live.stop()

    def kept(self, runs: Sequence[PlannedRun]) -> None:
        """See `SweepListener`."""
        self._done += len(runs)
        if runs:
            self._print(f"{len(runs)} of {self.total} runs were done before")

    def left(self, run: PlannedRun) -> None:
        """See `SweepListener`."""
        self._print(f"{run.label}: failed before (--retry tries again)")
        self._print_log(run)

    def elsewhere(self, run: PlannedRun) -> None:
        """See `SweepListener`."""
        self._print(f"{run.label}: another sweep is at work on it")

    def queued(self, run: PlannedRun) -> None:
        """See `SweepListener`."""
        self._queued.add(run)
        if self._running.pop(run, None) is not None:
            self._print(f"{run.label}: interrupted, and waits to go on")
        elif not self.console.is_terminal:
            self._print(f"{run.label}: submitted")

    def started(self, run: PlannedRun, state: FolderState) -> None:
        """See `SweepListener`."""
        self._queued.discard(run)
        self._running[run] = time.monotonic()
        if state == "goes on":
            self._print(f"{run.label}: goes on from where it was interrupted")
        elif state == "replaces":
            self._print(f"{run.label}: made anew, what was there no longer fits and is now in {run.out / REPLACED}")
        elif not self.console.is_terminal:
            self._print(f"{run.label}: started")

    def ended(self, run: PlannedRun, well: bool, seconds: float, signal: int | None = None) -> None:
        """See `SweepListener`."""
        self._running.pop(run, None)
        self._queued.discard(run)
        if well:
            self._done += 1
            self._print(f"{run.label}: done in {clock(seconds)} ({self._done} of {self.total})")
            return
        why = "failed" if signal is None else f"was killed by signal {signal}"
        why += " (out of memory?)" if signal == SIGKILL else ""
        self._print(f"{run.label}: {why} after {clock(seconds)}")
        self._print_log(run)

    def _print_log(self, run: PlannedRun) -> None:
        self._print(f"  the end of {run.directory / LOG}:")
        for line in last_lines(run.directory / LOG, _LINES_OF_A_FAILURE):
            self._print(f"    {line}")

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _lines(self) -> Table:
        """One line per run at work: which, since when, and the last thing it wrote; and how many are queued."""
        table = Table.grid(padding=(0, 2))
        for run, begun in self._running.items():
            lines = last_lines(run.directory / LOG, 1) or ["starting"]
            newest = Text(lines[0], no_wrap=True, overflow="ellipsis")
            table.add_row(Text(run.label), clock(time.monotonic() - begun), newest)
        if self._queued:
            table.add_row(f"{len(self._queued)} queued")
        return table
