"""What is known of a run on disk: whose folder it is and how far it came (`identity.json`), and what it measured."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from lit_avg.errors import UserError
from lit_avg.studies.plan import PlannedRun

RECORD = "identity.json"
RESULT = "result.json"


@dataclass(frozen=True)
class Record:
    """Which run a folder belongs to, and which of its commands have ended well."""

    identity: str
    finished: tuple[str, ...] = ()


def read_record(directory: Path) -> Record | None:
    """The record of a folder; None where there is none, or none that can be read."""
    try:
        content = json.loads((directory / RECORD).read_text())
        return Record(str(content["identity"]), tuple(content["finished"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def write_record(directory: Path, record: Record) -> None:
    """Replace the record at one stroke, so that a crash leaves the old or the new one."""
    partial = directory / f"{RECORD}.partial"
    partial.write_text(json.dumps({"identity": record.identity, "finished": record.finished}) + "\n")
    os.replace(partial, directory / RECORD)  # noqa: PTH105  Path.replace hides that this is the atomic step


def unfinished_commands(run: PlannedRun) -> list[Sequence[str]]:
    """The commands of a run that have not yet ended well."""
    record = read_record(run.directory)
    finished = record.finished if record is not None and record.identity == run.identity else ()
    return [command for command in run.commands if command[0] not in finished]


def is_finished(run: PlannedRun) -> bool:
    """Whether a run has been made as the study now describes it."""
    return not unfinished_commands(run) and (run.directory / RESULT).is_file()


def read_result(run: PlannedRun) -> dict[str, Any]:
    """The `result.json` of a finished run.

    Raises:
        UserError: it cannot be read.
    """
    path = run.directory / RESULT
    try:
        return cast(dict[str, Any], json.loads(path.read_text()))
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error}); remove {run.directory} and sweep again") from error
