"""A packing on the screen: how far the annotations are read, the rate, and the time left."""

from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from datamodules.packing.pack import Watch
from datamodules.packing.records import Records
from datamodules.packing.report import PackReport


@contextmanager
def progress_bar(console: Console) -> Generator[Watch]:
    """A bar while the block runs; nothing where no one watches."""
    columns = (
        TextColumn("packing"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[told]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        yield _Bar(bar)


class _Bar:
    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.task: TaskID | None = None
        self.first = 0
        self.first_bytes = 0

    def __call__(self, report: PackReport, records: Records) -> None:
        packed = sum(split["picture_bytes"] for split in report.splits.values())
        if self.task is None:  # what an earlier call has done tells nothing about the speed of this one
            self.first, self.first_bytes = report.records, packed
            self.task = self.bar.add_task("", total=records.bytes_in_all, completed=records.bytes_read, told="")
        seconds = max(self.bar.tasks[self.task].elapsed or 0.0, 1e-9)
        rate = (report.records - self.first) / seconds
        megabytes = (packed - self.first_bytes) / seconds / 1e6
        told = f"{report.records} records, {report.refused.total()} refused, {rate:.0f}/s, {megabytes:.1f} MB/s"
        self.bar.update(self.task, completed=records.bytes_read, told=told)
