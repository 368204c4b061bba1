"""From stored results to the rows of a table: mean and standard deviation over seeds, nothing left out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lit_avg.result_names import OUTCOMES, VISUAL_TOKENS
from lit_avg.studies.report.comparability import Asked, asked, same_questions
from lit_avg.studies.report.numbers import KnownOutcomes, bad_metric, number
from lit_avg.studies.runs.plan import PlannedRun, plan
from lit_avg.studies.runs.run_record import State, is_finished, read_result, states
from lit_avg.studies.spec.study import Row, Study

Results = dict[str, dict[int, dict[str, Any]]]
"""What `result.json` says: by run, then by seed."""

TOKENS = VISUAL_TOKENS.name
"""The metric that the speed-up is a ratio of."""


@dataclass(frozen=True)
class Sample:
    """One metric over the seeds that have it."""

    values: tuple[float, ...]
    seeds: tuple[int, ...] = field(default=(), kw_only=True)

    @cached_property
    def mean(self) -> float | None:
        """None without values."""
        return math.fsum(self.values) / len(self.values) if self.values else None

    @cached_property
    def sd(self) -> float | None:
        """Sample standard deviation; None for fewer than two values."""
        if self.mean is None or len(self.values) < 2:
            return None
        # as the statistics module, but for its fractions, which hold up a table of a hundred rows
        return math.sqrt(math.fsum((value - self.mean) ** 2 for value in self.values) / (len(self.values) - 1))


@dataclass(frozen=True)
class Origin:
    """Where a row's numbers for one seed come from.

    Args:
        run: made or not.
        state: how the run stands; `failed` also where one that it needs has failed.
        result: its `result.json`; None unless it is done, and all that it measured are numbers.
        problem: what is no number there, in words.
    """

    run: PlannedRun
    state: State
    result: Mapping[str, Any] | None
    problem: str | None = None


@dataclass(frozen=True)
class TableRow:
    """One row.

    Args:
        row: as the study says it.
        origins: one for each of the study's seeds, in their order.
        samples: each column's values.
        difference: the first column minus the reference row's, seed by seed; empty without a reference that was asked
            the same questions.
        speed_up: the reference row's visual tokens of an image over this row's, seed by seed; empty likewise.
        asked: hash of the test's questions, by seed.
    """

    row: Row
    origins: tuple[Origin, ...]
    samples: Mapping[str, Sample]
    difference: Sample
    speed_up: Sample
    asked: Asked

    @property
    def name(self) -> str:
        """As in the study."""
        return self.row.name

    @property
    def finished(self) -> int:
        """Seeds whose run is finished."""
        return len([origin for origin in self.origins if origin.result is not None])

    @property
    def state(self) -> State:
        """That of the seed which needs a look most."""
        there = {origin.state for origin in self.origins}
        order: tuple[State, ...] = ("failed", "running", "queued", "interrupted", "to do", "done")
        return next(state for state in order if state in there)


@dataclass(frozen=True)
class Table:
    """A study's rows, and where their numbers come from in words."""

    study: Study
    rows: tuple[TableRow, ...]
    provenance: str

    def reference_of(self, row: TableRow) -> TableRow | None:
        """The row that one is compared with; itself if others are."""
        name = reference_name(self.study, row.row)
        return next((other for other in self.rows if other.name == name), None)


def reference_name(study: Study, row: Row) -> str | None:
    """The row that one is compared with: its own reference, or else the study's."""
    return row.reference or study.reference


def collect(study: Study) -> Table:
    """Read the results of a study as far as it has come.

    Raises:
        UserError: a result file cannot be read.
    """
    origins = _origins(study)
    results: Results = {
        name: {seed: dict(origin.result) for seed, origin in by_seed.items() if origin.result is not None}
        for name, by_seed in origins.items()
    }
    used = [result for row in study.rows for result in results[row.run].values()]
    rows = {row.name: row for row in study.rows}
    made = tuple(
        _row(study, row, rows.get(reference_name(study, row) or ""), results, tuple(origins[row.run].values()))
        for row in study.rows
    )
    return Table(study, made, _provenance(study, used))


def finished_results(study: Study) -> Results:
    """The results of finished runs, without stores of feedback, which measure nothing, and what is no number."""
    results: Results = {name: {} for name in study.runs}
    known = KnownOutcomes(study.out)
    for run in plan(study):
        if not run.run.feedback and is_finished(run):
            result = read_result(run)
            if problem_of(run, result, known) is None:
                results[run.name][run.seed] = result
    known.keep()
    return results


def problem_of(run: PlannedRun, result: Mapping[str, Any], known: KnownOutcomes) -> str | None:
    """What is no number in what a finished run has measured, in words; None if all are.

    Raises:
        UserError: its outcomes cannot be read.
    """
    return bad_metric(result.get("metrics", {})) or known.bad(run.directory / OUTCOMES)


def sample(results: Results, row: Row, metric: str) -> Sample:
    """One metric of a row over the seeds that have it."""
    return _sample(_by_seed(results, row, metric))


def _origins(study: Study) -> dict[str, dict[int, Origin]]:
    """The runs that rows are made of, by name and seed."""
    runs = plan(study)
    found = states(runs)
    wanted, broken = {row.run for row in study.rows}, set[Path]()
    known = KnownOutcomes(study.out)
    origins: dict[str, dict[int, Origin]] = {name: {} for name in study.runs}
    for run in runs:
        if found[run] == "failed" or (found[run] != "done" and broken.intersection(run.parents)):
            broken.add(run.directory)
        if run.name in wanted:
            state = "failed" if run.directory in broken else found[run]
            result = read_result(run) if state == "done" else None
            problem = None if result is None else problem_of(run, result, known)
            origins[run.name][run.seed] = Origin(run, state, None if problem else result, problem)
    known.keep()
    return origins


def _row(study: Study, row: Row, reference: Row | None, results: Results, origins: tuple[Origin, ...]) -> TableRow:
    first = study.columns[0]
    samples = {column: sample(results, row, column) for column in study.columns}
    own_questions = asked(results[row.run])
    if reference is None or not same_questions(own_questions, asked(results[reference.run])):
        return TableRow(row, origins, samples, Sample(()), Sample(()), own_questions)
    own, others = _by_seed(results, row, first), _by_seed(results, reference, first)
    difference = {seed: value - others[seed] for seed, value in own.items() if seed in others}
    tokens, other_tokens = _by_seed(results, row, TOKENS), _by_seed(results, reference, TOKENS)
    speed_up = {seed: other_tokens[seed] / count for seed, count in tokens.items() if seed in other_tokens and count}
    return TableRow(row, origins, samples, _sample(difference), _sample(speed_up), own_questions)


def _sample(by_seed: Mapping[int, float]) -> Sample:
    return Sample(tuple(by_seed.values()), seeds=tuple(by_seed))


def _by_seed(results: Results, row: Row, metric: str) -> dict[int, float]:
    values = {seed: number(run["metrics"].get(f"{row.policy}/{metric}")) for seed, run in results[row.run].items()}
    return {seed: value for seed, value in values.items() if value is not None}


def _provenance(study: Study, used: Sequence[Mapping[str, Any]]) -> str:
    """Config, seeds, commit and data of the results in the table, as one line."""
    commits = {commit_of(result) for result in used}
    data = {f"{result.get('data')}"[:16] for result in used}
    return " · ".join(
        [
            f"config {study.path}",
            f"seeds {', '.join(map(str, study.seeds))}",
            f"commit {', '.join(sorted(commits)) or 'none yet'}",
            f"data {', '.join(sorted(data)) or 'none yet'}",
        ]
    )


def commit_of(result: Mapping[str, Any], whole: bool = False) -> str:
    """The commit that a run was made at, its beginning if not `whole`, and whether the clone had changes."""
    commit = f"{result.get('commit')}"
    return (commit if whole else commit[:10]) + (" with changes" if result.get("dirty") else "")
