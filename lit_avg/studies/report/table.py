"""Laying out a table: what stands in each cell, what is the best of its column, and what a reader must know."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

from lit_avg.result_names import MetricMeaning
from lit_avg.studies.report.comparability import comparable_groups, same_questions
from lit_avg.studies.report.intervals import OTHER_QUESTIONS, Interval, intervals
from lit_avg.studies.report.results import Sample, Table, TableRow, collect
from lit_avg.studies.report.table_cells import (
    MISSING,
    SPEED_UP,
    Cell,
    TableRowView,
    TableSheet,
    one_line,
)
from lit_avg.studies.runs.plan import unchecked
from lit_avg.studies.spec.columns import meaning_of
from lit_avg.studies.spec.study import Study

REFERENCE = "reference"
OTHERS = "other questions"
"""What is said instead of a difference between answers to different questions."""

FACTOR = MetricMeaning(SPEED_UP, "factor")

NO_RESULT = "no result"
"""What is said of a row whose runs have measured what is no number."""

_MARKS = "†‡§¶"
"""What stands behind differences to another row than the study's reference, one mark for each such row."""


def sheet_of(study: Study) -> TableSheet:
    """A study's table as far as the study has come.

    Raises:
        UserError: a file of a run cannot be read.
    """
    table = collect(study)
    return sheet(table, intervals(table))


def sheet(table: Table, known: Mapping[str, Interval]) -> TableSheet:
    """Lay out a table.

    Args:
        table: the results.
        known: intervals of the rows' differences, by the row's name.
    """
    study = table.study
    reference = one_line(study.reference or REFERENCE)
    compared = [f"{study.columns[0]} − {reference}", SPEED_UP] if _compares(study) else []
    cells = _with_best(table, [_cells(table, row, known.get(row.name)) for row in table.rows])
    lines = tuple(
        TableRowView(one_line(row.name), _count(row), own, row) for row, own in zip(table.rows, cells, strict=True)
    )
    return TableSheet((*study.columns, *compared), lines, _notes(table, lines, known), table)


def _cells(table: Table, row: TableRow, interval: Interval | None) -> list[Cell]:
    study, count = table.study, row.finished
    said = [MISSING] * (len(study.columns) + 2)
    if not row.finished:
        said[0] = _STATES.get(row.state, "not finished")
        said[0] = NO_RESULT if any(origin.problem for origin in row.origins) else said[0]
    cells = [
        Cell(meaning_of(column, study.metrics), row.samples[column], count, row.row.paper.get(column), said=words)
        for column, words in zip(study.columns, said, strict=False)
    ]
    if not _compares(study):
        return cells
    reference = table.reference_of(row)
    if row is reference:
        return [*cells, *[Cell(FACTOR, Sample(()), count, said=REFERENCE if row.finished else MISSING)] * 2]
    first = meaning_of(study.columns[0], study.metrics)
    if reference is not None and not _alike(row, reference, interval):
        return [*cells, *(Cell(metric, Sample(()), count, said=OTHERS) for metric in (first, FACTOR))]
    difference = Cell(first, row.difference, count, interval=interval, signed=True)
    compared = [difference, Cell(FACTOR, row.speed_up, count)]
    mark = _own_references(study).get(row.row.reference or "", "")
    return [*cells, *(replace(cell, mark=mark if cell.sample.values else "") for cell in compared)]


def _alike(row: TableRow, reference: TableRow, interval: Interval | None) -> bool:
    """Whether two rows were asked the same, as far as their results or, with an interval, their questions tell."""
    proven = interval is not None and interval.why_not == OTHER_QUESTIONS
    return not proven and same_questions(row.asked, reference.asked)


def _compares(study: Study) -> bool:
    return bool(study.reference or _own_references(study))


def _own_references(study: Study) -> dict[str, str]:
    """The rows that some compare themselves with instead of with the study's reference, and the mark of each."""
    names = dict.fromkeys(row.reference for row in study.rows if row.reference not in (None, row.name, study.reference))
    return {name: _MARKS[n % len(_MARKS)] * (n // len(_MARKS) + 1) for n, name in enumerate(names) if name}


NAMED = 3
"""Runs without a result that a note names."""

_STATES = {"failed": "failed", "running": "running"}


def _count(row: TableRow) -> str:
    """Of how many seeds; where some are missing, how many there should be and how many have failed."""
    planned = len(row.origins)
    if row.finished == planned:
        return str(planned)
    failed = len([origin for origin in row.origins if origin.state == "failed"])
    return f"{row.finished} of {planned}" + (f", {failed} failed" if failed else "")


def _with_best(table: Table, cells: Sequence[Sequence[Cell]]) -> list[tuple[Cell, ...]]:
    """Mark the best of each metric's column among rows that were asked the same; those seen as equal share it."""
    marked = [list(own) for own in cells]
    group = comparable_groups([row.asked for row in table.rows])
    rows = [number for number, row in enumerate(table.rows) if row.row.policy not in table.study.know_the_answer]
    for (place, column), own in product(enumerate(table.study.columns), sorted(set(group))):
        asked = [number for number in rows if group[number] == own]
        shown = {number: float(mean) for number in asked if (mean := cells[number][place].mean) is not None}
        best = meaning_of(column, table.study.metrics).best
        if best is None or len(set(shown.values())) < 2:
            continue
        value = max(shown.values()) if best == "high" else min(shown.values())
        for number in [number for number, mean in shown.items() if mean == value]:
            marked[number][place] = replace(marked[number][place], best=True)
    return [tuple(own) for own in marked]


def _no_results(lines: Sequence[TableRowView]) -> list[str]:
    """The runs whose numbers are none, a few by name."""
    problems = {
        f"{origin.run.name}, seed {origin.run.seed} ({origin.problem})": None
        for line in lines
        for origin in line.row.origins
        if origin.problem
    }
    more = f" and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
    return [f"{NO_RESULT}, and in no mean: {', '.join([*problems][:NAMED])}{more}"] if problems else []


def _notes(table: Table, lines: Sequence[TableRowView], known: Mapping[str, Interval]) -> tuple[str, ...]:
    notes = ["mean ± standard deviation over n seeds, shares in percent"]
    if any(cell.in_paper for line in lines for cell in line.cells):
        measured_on = f", on {table.study.paper}" if table.study.paper else ""
        notes.append(f"in parentheses: the paper's number{measured_on}")
    if seeds := {len(cell.sample.values) for line in lines for cell in line.cells if cell.ends}:
        drawn = "seeds and images" if max(seeds) > 1 else "images; one seed tells nothing about others"
        drawn += "; where n is 1, over images alone" if min(seeds) == 1 < max(seeds) else ""
        notes.append(f"in brackets: 95 % interval of the difference, from a paired bootstrap over {drawn}")
    if _compares(table.study):
        compared = one_line(table.study.reference or "the reference row")
        notes.append(f"{SPEED_UP}: visual tokens of an image in {compared}, divided by those in the row")
    used = {cell.mark for line in lines for cell in line.cells}
    own = {name: mark for name, mark in _own_references(table.study).items() if mark in used}
    notes += [f"{mark}: compared with {one_line(name)} instead" for name, mark in own.items()]
    if any(cell.said == OTHERS for line in lines for cell in line.cells):
        notes.append(f"{OTHERS}: than the row's reference was asked, so nothing can be said of a difference")
    notes += _no_results(lines)
    missing = [origin.run for line in lines for origin in line.row.origins if origin.result is None]
    notes += [told] if (told := unchecked(table.study, missing)) else []
    reasons = dict.fromkeys(interval.why_not for interval in known.values())
    notes += [f"no interval: {reason}" for reason in reasons if reason not in (None, OTHER_QUESTIONS)]
    return (*notes, table.provenance)
