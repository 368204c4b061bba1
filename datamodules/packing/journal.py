"""A data set in the making: `OUT.partial` beside `OUT`, with a journal of how far it is.

What the journal says is on the disk. A packing that was killed goes on from there; one that is whole takes its place
by a single renaming, so `OUT` is never half of anything.
"""

import json
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.packing.report import PackReport, report_from_json
from datamodules.shards.manifest import MANIFEST
from datamodules.shards.writer import WriterState
from lit_avg.utils.atomic_io import move, remove, write_whole
from lit_avg.utils.errors import UserError
from lit_avg.utils.json_files import read_entries
from lit_avg.utils.locks import BusyError, file_lock

INDEXES = ".indexes"
"""Below the partial folder: the indexes of archives."""

_JOURNAL, _NEXT_JOURNAL, _LOCK = ".journal.json", ".journal.new", ".lock"
_REPLACED = ".replaced"  # an older data set lies there for the moment in which the new one takes its place
_LEFTOVERS = (INDEXES, _JOURNAL, _NEXT_JOURNAL, _LOCK, _REPLACED)


@dataclass
class Progress:
    """How far a packing is."""

    whole: bool = False  # all records have been looked at, and all shards are closed
    rejects_bytes: int = 0
    writers: dict[str, WriterState] = field(default_factory=dict[str, WriterState])
    report: PackReport = field(default_factory=PackReport)


@dataclass(frozen=True)
class Partial:
    """The folder of a data set in the making."""

    folder: Path
    settings: dict[str, Any]  # decide every byte of it

    def read(self) -> Progress:
        """What the journal says; nothing, if there is none yet."""
        path = self.folder / _JOURNAL
        if not path.is_file():
            return Progress()
        fields = _read(path, self.folder)["progress"]
        writers = {split: WriterState(**state) for split, state in fields["writers"].items()}
        return Progress(fields["whole"], fields["rejects_bytes"], writers, report_from_json(fields["report"]))

    def save(self, progress: Progress) -> None:
        """Write the journal, all of it or nothing."""
        content = json.dumps({"settings": self.settings, "progress": _as_json(progress)})
        write_whole(self.folder / _JOURNAL, content, on_disk=True, partial=self.folder / _NEXT_JOURNAL)

    def forget(self) -> None:
        """Begin anew."""
        (self.folder / _JOURNAL).unlink(missing_ok=True)


def partial_folder(out: Path) -> Path:
    """Where `out` is made."""
    return out.absolute().parent / f"{out.absolute().name}.partial"


@contextmanager
def open_partial(out: Path, settings: dict[str, Any], overwrite: bool) -> Generator[Partial]:
    """The folder in which `out` is being made, or has begun to be made, with these settings.

    It is removed if the block fails before anything is packed, and kept otherwise.

    Raises:
        UserError: it was begun with other settings, another process is at it, or it cannot be written.
    """
    folder = partial_folder(out)
    partial = Partial(folder, settings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            _take(folder, held)
            _refuse_other(folder, settings, overwrite)
            try:
                yield partial
            finally:
                kept = folder.is_dir() and partial.read().report.samples > 0
                if not kept:
                    remove(folder)
    except OSError as error:
        state = f"what is packed is kept in {folder}, and the same command goes on from there"
        if not folder.exists():
            state = "nothing was left behind"
        raise UserError(f"cannot write {out}: {error.strerror or error}; {state}") from error


def settings_of(folder: Path) -> dict[str, Any] | None:
    """What the data set in a folder was made with, None if there is none."""
    for manifest in (folder / MANIFEST, folder / "train" / MANIFEST):
        if manifest.is_file():
            settings: dict[str, Any] = _read(manifest, folder)["settings"]
            return {name: value for name, value in settings.items() if name != "split"}
    return None


def changed_settings(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The names of what differs."""
    return ", ".join(name for name, value in now.items() if name not in before or before[name] != value)


def put_in_place(folder: Path, out: Path) -> None:
    """Let a whole data set take its place."""
    if out.exists():
        move(out, folder / _REPLACED)
    move(folder, out)
    remove_leftovers(out)


def remove_leftovers(out: Path) -> None:
    """Remove what was only needed to make the data set."""
    for name in _LEFTOVERS:
        remove(out / name)


def _read(path: Path, folder: Path) -> dict[str, Any]:
    return read_entries(path, f"bring it back, or remove {folder} and pack again", ("settings",))


def _as_json(progress: Progress) -> dict[str, Any]:
    writers = {split: vars(state) for split, state in progress.writers.items()}
    return {**vars(progress), "writers": writers, "report": vars(progress.report)}


def _take(folder: Path, held: ExitStack) -> None:
    try:
        held.enter_context(file_lock(folder / _LOCK, wait=False))
    except BusyError as error:
        raise UserError(f"another process is packing into {folder}; wait for it, or choose another --out") from error


def _refuse_other(folder: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """What was begun with other settings is only removed when told to."""
    path = folder / _JOURNAL
    if not path.is_file():
        return
    before = _read(path, folder)["settings"]
    if changed := changed_settings(before, settings):
        if not overwrite:
            raise UserError(
                f"{folder} was begun with other {changed}; finish that, remove it, or begin anew with --overwrite"
            )
        path.unlink()
