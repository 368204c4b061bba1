"""What is known of a run on disk: whose folder it is and how far it came (`identity.json`), and what it measured.

Read quickly, and without loading what runs load.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from lit_avg.studies.runs.plan import PlannedRun
from lit_avg.utils.atomic_io import write_whole, written
from lit_avg.utils.errors import UserError
from lit_avg.utils.hashing import file_state
from lit_avg.utils.json_files import read_entries
from lit_avg.utils.locks import owner_of

RECORD = "identity.json"
LOG = "log.txt"


@dataclass(frozen=True)
class Record:
    """Which run a folder belongs to, and how far it is.

    Args:
        identity: the run's.
        finished: those of its commands that have ended well.
        failed: the exit status of a command that has ended badly of itself, not by being stopped.
        seconds: time spent on commands that have ended well.
        proof: in which state the file with what it measured was when it was seen whole; in that, it is not read again.
    """

    identity: str
    finished: tuple[str, ...] = ()
    failed: int | None = None
    seconds: float = field(default=0.0, compare=False)
    proof: str | None = field(default=None, compare=False)


def read_record(directory: Path) -> Record | None:
    """The record of a folder; None where there is none, or none that can be read."""
    try:
        content = json.loads((directory / RECORD).read_bytes())
        failed, seconds = content.get("failed"), float(content.get("seconds", 0))
        return Record(str(content["identity"]), tuple(content["finished"]), failed, seconds, content.get("proof"))
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_record(directory: Path, record: Record) -> None:
    """Replace the record at one stroke, so that a crash leaves the old or the new one."""
    write_whole(directory / RECORD, json.dumps(asdict(record)) + "\n")


def own_record(run: PlannedRun) -> Record | None:
    """The record of a run's folder, if the folder is that of this very run."""
    record = read_record(run.directory)
    return record if record is not None and record.identity == run.identity else None


def unfinished_commands(run: PlannedRun) -> list[Sequence[str]]:
    """The commands of a run that have not yet ended well."""
    record = own_record(run)
    return [command for command in run.commands if record is None or command[0] not in record.finished]


def is_finished(run: PlannedRun) -> bool:
    """Whether a run has been made as the study now describes it, and what it measured can be read."""
    return not unfinished_commands(run) and has_proof(run)


def has_proof(run: PlannedRun) -> bool:
    """Whether what a run has measured is there and not damaged; read unless it is as it was when the run ended."""
    record = own_record(run)
    known = record is not None and record.proof is not None and record.proof == _state_of_proof(run)
    return known or isinstance(_proof_of(run), dict)


def whole_proof(run: PlannedRun) -> str | None:
    """For a run's record, the state of the file with what it has measured; None where that is not whole."""
    state = _state_of_proof(run)
    return state if isinstance(_proof_of(run), dict) and _state_of_proof(run) == state else None


def is_damaged(run: PlannedRun) -> bool:
    """Whether a run has been made, and what it measured can no longer be read."""
    return own_record(run) is not None and not unfinished_commands(run) and run.proof.is_file() and not has_proof(run)


def has_failed(run: PlannedRun) -> bool:
    """Whether a run has ended badly of itself, and nobody has tried again."""
    record = own_record(run)
    return record is not None and record.failed is not None


def read_result(run: PlannedRun) -> dict[str, Any]:
    """The `result.json` of a finished run; of a store of feedback, its manifest. Who asks again gets the same object.

    Raises:
        UserError: it cannot be read.
    """
    proof = _proof_of(run)
    if isinstance(proof, dict):
        return proof
    raise UserError(proof or f"there is no {run.proof}; remove {run.directory} and sweep again")


def _state_of_proof(run: PlannedRun) -> str | None:
    try:
        return file_state(run.proof)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _proof_of(run: PlannedRun) -> dict[str, Any] | str | None:
    """What a run has measured, or why it cannot be read; None where it is not there."""
    time = written(run.proof)
    return None if time is None else _read_proof(run.proof, run.directory, run.run.feedback, time)


@lru_cache(maxsize=1024)  # a table asks twice for each: whether it is done, and what came out
def _read_proof(proof: Path, run: Path, feedback: bool, time: tuple[int, int]) -> dict[str, Any] | str:
    """A proof, or why it cannot be read; `time` tells an older file from this one."""
    try:
        return read_entries(proof, f"remove {run} and sweep again", () if feedback else ("metrics",))
    except UserError as error:
        return str(error)


State = Literal["done", "running", "queued", "failed", "interrupted", "to do"]

STATES: tuple[State, ...] = ("done", "running", "queued", "failed", "interrupted", "to do")


def states(runs: Sequence[PlannedRun], queued: Collection[str] = ()) -> dict[PlannedRun, State]:
    """How each run stands.

    Args:
        runs: of a plan.
        queued: identities of those that wait in a cluster's queue.
    """
    return {run: _state(run, run.identity in queued) for run in runs}


def _state(run: PlannedRun, queued: bool) -> State:
    if is_finished(run):
        return "done"
    if owner_of(run.directory) is not None:
        return "running"
    if queued:
        return "queued"
    if has_failed(run) or is_damaged(run):
        return "failed"
    return "to do" if own_record(run) is None else "interrupted"
