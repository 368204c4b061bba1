"""How each run of a study stands, read from its folder; quick, and without loading what runs load."""

from collections.abc import Collection, Sequence
from typing import Literal

from lit_avg.studies.locks import owner_of
from lit_avg.studies.plan import PlannedRun
from lit_avg.studies.records import has_failed, is_damaged, is_finished, own_record

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
