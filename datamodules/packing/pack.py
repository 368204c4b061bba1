"""LLaVA's JSON and its images to shards, in bounded memory.

Records are read one by one, examined in chunks by as many processes as are given, and written in their order, so the
same input gives the same bytes with any number of processes, and after any interruption.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

from datamodules.packing.examine import Examiner, Packable, Refusal, Resizing
from datamodules.packing.journal import INDEXES, Partial, Progress, open_partial, put_in_place
from datamodules.packing.presets import preset_named
from datamodules.packing.recheck import Changes, changes_since, verdicts_in, verdicts_of
from datamodules.packing.records import Record, Records
from datamodules.packing.report import PackReport
from datamodules.packing.roots import ImageRoot, Images
from datamodules.shards.reader import held_out
from datamodules.shards.writer import ShardWriter, write_manifest
from lit_avg.utils.errors import UserError
from lit_avg.utils.hashing import file_sha256
from lit_avg.utils.process_pool import in_order

REJECTS = "rejects.jsonl"
"""The records that were refused, beside the shards: id, source and reason."""

_CHUNK = 16
"""Records that are examined together: enough to make sending them cheap, few enough to have their images at once."""

_SECONDS = 2.0
"""Between two entries of the journal: as much work is lost when a packing is killed.

There is one for each shard as well, unless shards are so small that most of the time would go into the journal.
"""


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackJob:
    """What is packed, and how: together with the program, this decides every byte.

    Args:
        annotations: files with LLaVA records, each a JSON list or one record a line.
        images: where the images are.
        preset: what the data set is known for, as in `presets`.
        shard_bytes: a shard is closed when the next sample would take it beyond this.
        val_share: share of the images that go to validation.
        resizing: how images are written anew.
    """

    annotations: tuple[Path, ...]
    images: tuple[ImageRoot, ...] = ()
    preset: str = "generic"
    shard_bytes: int = 2**28
    val_share: float = 0.0
    resizing: Resizing = field(default_factory=Resizing)

    def settings(self) -> dict[str, Any]:
        """What two jobs that make the same have in common.

        Raises:
            UserError: an annotations file is not there, or there is no such preset.
        """
        preset_named(self.preset)
        Records(self.annotations)
        return {
            "annotations": [file_sha256(path) for path in self.annotations],
            "images": [root.identity() for root in self.images],
            "preset": self.preset,
            "shard_bytes": self.shard_bytes,
            "val_share": self.val_share,
            **vars(self.resizing),
        }

    @property
    def splits(self) -> tuple[str, ...]:
        """Folders below the output."""
        return ("train", "val") if self.val_share else (".",)

    def split_of(self, sample: Packable) -> str:
        """Where a sample goes."""
        return self.splits[int(bool(self.val_share) and held_out(sample.origin, self.val_share))]


Watch = Callable[[PackReport, Records], None]
"""Is shown, again and again, what became of the records and how far they have been read."""


def pack(
    job: PackJob,
    out: Path,
    workers: int = 1,
    max_rejects: float = 0.01,
    overwrite: bool = False,
    settings: dict[str, Any] | None = None,
    watch: Watch | None = None,
) -> PackReport:
    """Pack records into `out`, or into `out/train` and `out/val`; go on where an earlier call was stopped.

    Args:
        job: what and how.
        out: the folder to make; what is there is replaced once the new data are whole.
        workers: processes that read and decode; 1 for this one alone. They change nothing but the speed.
        max_rejects: share of the records that may be refused. If more are, `out` is not made, and what is packed waits
            beside it for another call that allows more.
        overwrite: begin anew if the data were begun with other settings, or from other images.
        settings: `job.settings()`, if they are known already: they cost reading all files that are hashed.
        watch: is told how it goes.

    Raises:
        UserError: the input is not what it should be, no record can be packed, too many are refused, or the disk is
            full.
    """
    settings = settings or job.settings()
    with open_partial(out, settings, overwrite) as partial:
        progress = partial.read()
        records = Records(job.annotations)
        if progress.report.records:
            progress = _looked_at_again(job, records, partial, progress, workers, overwrite)
        if not progress.whole:
            _pack_records(job, records, partial, progress, workers, watch)
        report = progress.report
        if not report.samples:
            names = ", ".join(str(path) for path in job.annotations)
            raise UserError(f"none of the {report.records} records in {names} can be packed: {report.reasons}")
        if report.refused_share > max_rejects:
            raise UserError(_too_many(report, max_rejects, partial.folder, out))
        _write_manifests(job, partial, progress)
        put_in_place(partial.folder, out)
    return report


def must_pack_anew(job: PackJob, out: Path, workers: int = 1) -> bool:
    """Whether the images that `out` was made from have come to give more than it has.

    Args:
        job: with the settings that `out` was packed with.
        out: a whole data set.
        workers: processes that read; 1 for this one alone.

    Raises:
        UserError: they have changed, so that `out` must not be replaced without being told to.
    """
    with TemporaryDirectory() as indexes:
        verdicts = verdicts_in(out, out / REJECTS)
        changes = changes_since(verdicts, Records(job.annotations), _examiner(job, Path(indexes)), workers)
    return _tell_anew(changes.ask_for_anew(out, overwrite=False), changes)


def _looked_at_again(
    job: PackJob, records: Records, partial: Partial, progress: Progress, workers: int, overwrite: bool
) -> Progress:
    """What was begun, as far as it still holds."""
    rejects = (partial.folder / REJECTS).read_bytes()[: progress.rejects_bytes].splitlines()
    verdicts = verdicts_of(progress.report, rejects)
    changes = changes_since(verdicts, records, _examiner(job, partial.folder / INDEXES), workers)
    if _tell_anew(changes.ask_for_anew(partial.folder, overwrite), changes):
        partial.forget()
        return Progress()
    return progress


def _tell_anew(anew: bool, changes: Changes) -> bool:
    if anew and changes.packable:
        _log.warning("%d records that were refused can be packed now, so all is packed anew", changes.packable)
    return anew


def _pack_records(
    job: PackJob, records: Records, partial: Partial, progress: Progress, workers: int, watch: Watch | None
) -> None:
    examiner = _examiner(job, partial.folder / INDEXES)
    sink = _Sink(job, partial, progress)
    try:
        todo = _chunks(islice(records, progress.report.records, None))
        for outcomes in in_order(examiner, todo, workers):
            sink.take(outcomes)
            if watch is not None:
                watch(progress.report, records)
        sink.finish()
    finally:
        sink.abandon()


def _examiner(job: PackJob, indexes: Path) -> Examiner:
    """What looks at a job's records, its archives listed."""
    preset = preset_named(job.preset)
    images = Images(job.images, indexes, preset.folders, preset.any_extension)
    images.build_indexes()
    return Examiner(images, preset, job.resizing)


def _chunks(records: Iterator[Record]) -> Iterator[list[Record]]:
    while chunk := list(islice(records, _CHUNK)):
        yield chunk


class _Sink:
    """Writes what has been examined, and keeps the journal."""

    def __init__(self, job: PackJob, partial: Partial, progress: Progress) -> None:
        self.job, self.partial, self.progress = job, partial, progress
        self.writers = {
            split: ShardWriter(partial.folder / split, job.shard_bytes, progress.writers.get(split))
            for split in job.splits
        }
        self.rejects = _cut_open(partial.folder / REJECTS, progress.rejects_bytes)
        self.saved, self.saving = time.monotonic(), 0.0  # when the journal was written, and how long that took

    def take(self, outcomes: Sequence[Packable | Refusal]) -> None:
        for outcome in outcomes:
            closed = self._closed
            if isinstance(outcome, Refusal):
                self.progress.report.count(outcome, "")
                self.rejects.write(json.dumps(outcome._asdict()).encode() + b"\n")
            else:
                split = self.job.split_of(outcome)
                self.progress.report.count(outcome, split)
                self.writers[split].write(outcome.record, outcome.image, outcome.extension)
            since = time.monotonic() - self.saved
            if since > (self.saving if self._closed > closed else _SECONDS):
                self._save()

    def finish(self) -> None:
        for writer in self.writers.values():
            writer.close()
        self.progress.whole = True
        self._save()

    def abandon(self) -> None:
        self.rejects.close()
        for writer in self.writers.values():
            writer.abandon()

    @property
    def _closed(self) -> int:
        return sum(len(writer.shards) for writer in self.writers.values())

    def _save(self) -> None:
        begin = time.monotonic()
        self.rejects.flush()
        self.progress.rejects_bytes = self.rejects.tell()
        self.progress.writers = {split: writer.state() for split, writer in self.writers.items()}
        self.partial.save(self.progress)
        self.saved = time.monotonic()
        self.saving = self.saved - begin


def _cut_open(path: Path, size: int) -> BinaryIO:
    """Open for writing behind the first `size` bytes."""
    file = path.open("r+b" if size else "wb")
    file.truncate(size)
    file.seek(0, os.SEEK_END)
    return file


def _write_manifests(job: PackJob, partial: Partial, progress: Progress) -> None:
    settings = partial.settings
    digests: Sequence[str] = settings["annotations"]
    sources = {
        "annotations": [
            {"name": path.name, "bytes": path.stat().st_size, "sha256": digest}
            for path, digest in zip(job.annotations, digests, strict=True)
        ],
        "images": progress.report.of_roots(settings["images"]),
    }
    for split, state in progress.writers.items():
        entries = {"settings": {**settings, "split": split}, "sources": sources, "totals": progress.report.totals()}
        write_manifest(partial.folder / split, state, entries)


def _too_many(report: PackReport, max_rejects: float, folder: Path, out: Path) -> str:
    return (
        f"{report.refused.total()} of {report.records} records refused ({report.refused_share:.2%}, {report.reasons}), "
        f"more than --max-rejects {max_rejects}: {out} is not made. Read {folder / REJECTS}; the same command with a "
        "higher --max-rejects takes what is packed as it is, and looks again at what was refused"
    )
