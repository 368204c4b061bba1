"""`--dry-run`: what a sweep would do, what is shared, what is done, and how long the rest may take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from lit_avg.studies.runs.plan import PlannedRun
from lit_avg.studies.runs.run_record import State, read_record, states
from lit_avg.studies.spec.fingerprint import read_checked
from lit_avg.studies.spec.study import Study


@dataclass(frozen=True)
class Speed:
    """What a device does.

    Args:
        flops: in a second, really.
        called: the device and how that is reckoned, in words.
    """

    flops: float
    called: str


LEAST = 60.0
"""Seconds; what FLOPs make of less is bound by other things."""


def graph_lines(study: Study, runs: Sequence[PlannedRun], jobs: int, speed: Speed | None = None) -> list[str]:
    """A line for each run with its state, what it waits for and how many rows share it, then a sum.

    Args:
        study: the study.
        runs: its runs.
        jobs: done side by side.
        speed: of each device, to tell by FLOPs what runs take of which none has been made yet.
    """
    state_of, expected = states(runs), expected_seconds(runs)
    rows, planned = rows_of(study), {} if speed is None else planned_seconds(study, runs, speed)
    width = max(len(run.label) for run in runs)
    lines = list[str]()
    for run in runs:
        after = ", ".join(str(parent.relative_to(run.out / f"seed-{run.seed}")) for parent in run.parents)
        facts = [f"{_WORDS[state_of[run]]:<12}"]
        facts += [f"shared by {rows[run.name]} rows"] if rows[run.name] > 1 else []
        facts += [f"after {after}"] if after else []
        if state_of[run] != "done" and (seconds := expected.get(run)) is not None:
            facts.append(f"about {clock(seconds)}")
        elif state_of[run] != "done" and run in planned:
            facts.append(f"about {_hours(planned[run])} by its FLOPs")
        lines.append(f"{run.label:<{width}}  {' · '.join(facts)}".rstrip())
    lines.append(_sum(study, runs, state_of, expected, jobs))
    left = [planned[run] for run in runs if state_of[run] != "done" and run in planned]
    if speed is not None and left:
        lines.append(f"by FLOPs, on {speed.called}: {_hours(sum(left))} for {len(left)} runs, one after the other")
    return lines


def planned_seconds(study: Study, runs: Sequence[PlannedRun], speed: Speed) -> dict[PlannedRun, float]:
    """What runs take by their FLOPs on the devices that they ask for, but for those of which too little is known."""
    checked, stores = read_checked(study.out), {run.directory for run in runs if run.run.feedback}
    seconds = dict[PlannedRun, float]()
    for run in runs:
        known = checked.get(run.source)
        if known is None or not known.flops:
            continue
        kind = "feedback" if run.run.feedback else "stored" if stores & {*run.parents} else "fit"
        flops = known.flops.get(kind, 0.0) + known.flops["test"] * run.run.test
        devices = prod(known.processes) if known.processes else 1
        if (taken := flops / (devices * speed.flops)) >= LEAST:
            seconds[run] = taken
    return seconds


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} hours" if seconds >= 3600 else f"{seconds / 60:,.0f} minutes"


_WORDS: Mapping[State, str] = {
    "done": "done",
    "running": "running",
    "queued": "queued",
    "failed": "failed",
    "interrupted": "would go on",
    "to do": "would run",
}


def rows_of(study: Study) -> dict[str, int]:
    """How many rows of the table need each run."""
    counts = dict.fromkeys(study.runs, 0)
    for row in study.rows:
        for name in _ancestors(study, row.run):
            counts[name] += 1
    return counts


def expected_seconds(runs: Sequence[PlannedRun]) -> dict[PlannedRun, float]:
    """What each run may take: the mean of finished ones of the same stage, whatever their row and seed."""
    taken: dict[str, list[float]] = {}
    for run in runs:
        record = read_record(run.directory)
        if record is not None and len(record.finished) == len(run.commands):
            taken.setdefault(run.run.stage, []).append(record.seconds)
    means = {stage: sum(seconds) / len(seconds) for stage, seconds in taken.items()}
    return {run: means[run.run.stage] for run in runs if run.run.stage in means}


def time_left(
    runs: Sequence[PlannedRun], state_of: Mapping[PlannedRun, State], expected: Mapping[PlannedRun, float], jobs: int
) -> float:
    """Seconds until the last run ends, as far as durations are known, with so many runs side by side."""
    ends: dict[Path, float] = {}
    free = [0.0] * jobs
    for run in runs:
        if state_of[run] == "done" or run not in expected:
            continue
        slot = min(range(jobs), key=lambda number: free[number])
        begin = max([free[slot], *(ends.get(parent, 0.0) for parent in run.parents)])
        free[slot] = ends[run.directory] = begin + expected[run]
    return max(ends.values(), default=0.0)


def clock(seconds: float) -> str:
    """75 to 1:15, 4000 to 1:06:40."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _sum(
    study: Study,
    runs: Sequence[PlannedRun],
    state_of: Mapping[PlannedRun, State],
    expected: Mapping[PlannedRun, float],
    jobs: int,
) -> str:
    alone = sum(len(_ancestors(study, row.run)) for row in study.rows) * len(study.seeds)
    left = [run for run in runs if state_of[run] != "done"]
    text = f"{len(runs)} runs for {len(study.rows)} rows x {len(study.seeds)} seed(s)"
    text += f" ({alone} if nothing were shared), {len(runs) - len(left)} done, {len(left)} to do"
    unknown = len([run for run in left if run not in expected])
    if not left or unknown == len(left):
        return text
    text += f"; about {clock(time_left(runs, state_of, expected, jobs))} with {jobs} job(s)"
    return f"{text}, and {unknown} of unknown length" if unknown else text


def _ancestors(study: Study, name: str) -> set[str]:
    return {name}.union(*(_ancestors(study, parent) for parent in study.runs[name].after))
