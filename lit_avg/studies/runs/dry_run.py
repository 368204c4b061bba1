"""`--dry-run`: what a sweep would do, what is shared, what is done, and how long the rest may take."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lit_avg.studies.runs.plan import PlannedRun
from lit_avg.studies.runs.run_record import State, read_record, states
from lit_avg.studies.spec.study import Study


def graph_lines(study: Study, runs: Sequence[PlannedRun], jobs: int) -> list[str]:
    """A line for each run with its state, what it waits for and how many rows share it, then a sum."""
    state_of, expected = states(runs), expected_seconds(runs)
    rows = rows_of(study)
    width = max(len(run.label) for run in runs)
    lines = list[str]()
    for run in runs:
        after = ", ".join(str(parent.relative_to(run.out / f"seed-{run.seed}")) for parent in run.parents)
        facts = [f"{_WORDS[state_of[run]]:<12}"]
        facts += [f"shared by {rows[run.name]} rows"] if rows[run.name] > 1 else []
        facts += [f"after {after}"] if after else []
        if state_of[run] != "done" and (seconds := expected.get(run)) is not None:
            facts.append(f"about {clock(seconds)}")
        lines.append(f"{run.label:<{width}}  {' · '.join(facts)}".rstrip())
    return [*lines, _sum(study, runs, state_of, expected, jobs)]


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
