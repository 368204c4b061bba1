"""From stored results to the rows of a table: mean and standard deviation over seeds, nothing left out."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_avg.studies.plan import plan
from lit_avg.studies.records import is_finished, read_result
from lit_avg.studies.study import Row, Study

Results = dict[str, dict[int, dict[str, Any]]]
"""What `result.json` says: by run, then by seed."""


@dataclass(frozen=True)
class Sample:
    """One metric over the seeds that have it."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        """None without values."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation; None for fewer than two values."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class TableRow:
    """One row.

    Args:
        name: as in the study.
        finished: seeds whose run is finished.
        samples: each column's values.
        difference: the first column minus the reference row's, seed by seed; empty without a reference.
    """

    name: str
    finished: int
    samples: Mapping[str, Sample]
    difference: Sample


@dataclass(frozen=True)
class Table:
    """A study's rows, and where their numbers come from in words."""

    study: Study
    rows: tuple[TableRow, ...]
    provenance: str


def collect(study: Study) -> Table:
    """Read the results of a study as far as it has come.

    Raises:
        UserError: a result file cannot be read.
    """
    results = finished_results(study)
    used = [result for row in study.rows for result in results[row.run].values()]
    return Table(study, tuple(_row(study, row, results) for row in study.rows), _provenance(study, used))


def finished_results(study: Study) -> Results:
    """The results of every finished run but stores of feedback, which measure nothing."""
    results: Results = {name: {} for name in study.runs}
    for run in plan(study):
        if not run.run.feedback and is_finished(run):
            results[run.name][run.seed] = read_result(run)
    return results


def sample(results: Results, row: Row, metric: str) -> Sample:
    """One metric of a row over the seeds that have it."""
    return Sample(tuple(_by_seed(results, row, metric).values()))


def _by_seed(results: Results, row: Row, metric: str) -> dict[int, float]:
    values = {seed: run["metrics"].get(f"{row.policy}/{metric}") for seed, run in results[row.run].items()}
    return {seed: value for seed, value in values.items() if value is not None}


def _row(study: Study, row: Row, results: Results) -> TableRow:
    first = study.columns[0]
    own = _by_seed(results, row, first)
    reference = next((_by_seed(results, other, first) for other in study.rows if other.name == study.reference), {})
    difference = Sample(tuple(value - reference[seed] for seed, value in own.items() if seed in reference))
    samples = {column: sample(results, row, column) for column in study.columns}
    return TableRow(row.name, len(results[row.run]), samples, difference)


def _provenance(study: Study, used: Sequence[Mapping[str, Any]]) -> str:
    """Config, seeds, commit and data of the results in the table, as one line."""
    commits = {f"{result.get('commit')}"[:10] + (" with changes" if result.get("dirty") else "") for result in used}
    data = {f"{result.get('data')}"[:16] for result in used}
    return " · ".join(
        [
            f"config {study.path}",
            f"seeds {', '.join(map(str, study.seeds))}",
            f"commit {', '.join(sorted(commits)) or 'none yet'}",
            f"data {', '.join(sorted(data)) or 'none yet'}",
        ]
    )
