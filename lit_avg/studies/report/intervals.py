"""The confidence interval of each row's difference to the reference row, kept beside the table.

An interval takes every question of every run into account, and to read those takes seconds for a study of hundreds of
runs. So it is kept in `intervals.json` under what it follows from: the two rows' runs and when their outcomes were
written. A table whose runs are the same reads it there, without even loading numpy; no format goes without intervals.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lit_avg.result_names import ACCURACY, OUTCOMES
from lit_avg.studies.report.results import Table, TableRow
from lit_avg.studies.runs.plan import PlannedRun
from lit_avg.studies.spec.fingerprint import digest
from lit_avg.utils.atomic_io import write_whole, written

FILE = "intervals.json"
METHOD = 2
"""Counts changes of how an interval is computed; those kept from before are not taken."""

ONE_IMAGE = "all questions are about one image, which tells nothing about others"

OTHER_QUESTIONS = "runs of both rows were tested on different questions"


@dataclass(frozen=True)
class Interval:
    """Where a difference lies with a confidence of 95 %; or why nobody knows."""

    low: float | None = None
    high: float | None = None
    why_not: str | None = None


@dataclass(frozen=True)
class Comparison:
    """What an interval follows from.

    Args:
        column: the metric.
        policy: of the row.
        reference: policy of the reference row.
        pairs: for each seed that both have, the run of the row and that of the reference row.
    """

    column: str
    policy: str
    reference: str
    pairs: tuple[tuple[PlannedRun, PlannedRun], ...]

    @property
    def key(self) -> str:
        """Hash of all of it, and of when the outcomes were written: a test may be repeated by hand."""
        files = [[(run.identity, run.seed, written(run.directory / OUTCOMES)) for run in pair] for pair in self.pairs]
        return digest([METHOD, self.column, self.policy, self.reference, files])


def intervals(table: Table) -> dict[str, Interval]:
    """The interval of every row's `difference`, by the row's name; none for reference rows and for empty ones.

    Raises:
        UserError: an outcomes file cannot be read.
    """
    column = table.study.columns[0]
    known = _read(table.study.out / FILE)
    used, found = dict[str, Interval](), dict[str, Interval]()
    for row in table.rows:
        reference = table.reference_of(row)
        if reference is None or row is reference or not row.difference.values:
            continue
        comparison = Comparison(column, row.row.policy, reference.row.policy, tuple(_pairs(row, reference)))
        used[comparison.key] = known.get(comparison.key) or _interval(comparison)
        found[row.name] = used[comparison.key]
    if used.keys() - known.keys():
        kept = {key: asdict(interval) for key, interval in used.items()}
        with suppress(OSError):  # of a study that one may only read; they are computed again next time
            write_whole(table.study.out / FILE, json.dumps(kept, indent=1) + "\n")
    return found


def _pairs(row: TableRow, reference: TableRow) -> Iterator[tuple[PlannedRun, PlannedRun]]:
    for own, other in zip(row.origins, reference.origins, strict=True):
        if own.run.seed in row.difference.seeds:
            yield own.run, other.run


def _interval(comparison: Comparison) -> Interval:
    """Read all questions; this is what takes long."""
    from lit_avg.studies.report.bootstrap import paired_interval
    from lit_avg.studies.report.outcomes_csv import paired_differences, read_answers

    metric, _, kind = comparison.column.partition("/")
    if metric != ACCURACY.name:
        return Interval(why_not=f"{comparison.column} is no matter of right and wrong")
    policies = (comparison.policy, comparison.reference)
    pairs = [
        tuple(read_answers(run.directory / OUTCOMES, policy, kind) for run, policy in zip(runs, policies, strict=True))
        for runs in comparison.pairs
    ]
    for runs, answers in zip(comparison.pairs, pairs, strict=True):
        if missing := [run for run, found in zip(runs, answers, strict=True) if found is None]:
            return Interval(why_not=f"{missing[0].directory / OUTCOMES} does not say what was chosen for each question")
    differences = paired_differences([(own, other) for own, other in pairs if own is not None and other is not None])
    if differences is None:
        return Interval(why_not=OTHER_QUESTIONS)
    if (differences.images == differences.images[0]).all():
        return Interval(why_not=ONE_IMAGE)
    low, high = paired_interval(differences.values, differences.images)
    return Interval(low, high)


def _read(path: Path) -> dict[str, Interval]:
    """What was kept; nothing if it cannot be read, since all of it can be computed anew."""
    try:
        content: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return {key: Interval(**kept) for key, kept in content.items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return {}
