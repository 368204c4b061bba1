"""What stands in each cell of a table, before anyone asks in which format: numbers, and how people read them.

Every format is made of a `Sheet` and says the same, since none of them formats a number of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from lit_avg.studies.alike import groups, same_questions
from lit_avg.studies.columns import Metric, metric_of
from lit_avg.studies.intervals import Interval, intervals
from lit_avg.studies.results import Sample, Table, TableRow, collect
from lit_avg.studies.study import Study

MISSING = "–"
REFERENCE = "reference"
OTHER_QUESTIONS = "other questions"
SPEED_UP = "token speed-up"

FACTOR = Metric("factor", "higher")
KNOWS_THE_ANSWER = "oracle"
"""The policy that looks at the answers: it is out of competition when the best is marked."""

_MARKS = "†‡§¶"
"""What stands behind differences to another row than the study's reference, one mark for each such row."""

_DIGITS = {"share": 1, "count": 1, "factor": 2}


@dataclass(frozen=True)
class Cell:
    """One cell with numbers.

    Args:
        metric: what the numbers mean.
        sample: the value of each seed.
        finished: seeds that the row has.
        paper: the paper's number.
        interval: of a difference.
        best: whether the mean is the best of its column, as far as people see.
        signed: whether a `+` is shown.
        said: what is shown where there is no mean.
        mark: stands behind all else, and is explained in a note.
    """

    metric: Metric
    sample: Sample
    finished: int
    paper: float | None = None
    interval: Interval | None = None
    best: bool = False
    signed: bool = False
    said: str = MISSING
    mark: str = ""

    @property
    def mean(self) -> str | None:
        """As people read it: shares in percent."""
        return None if self.sample.mean is None else self._shown(self.sample.mean, self.signed)

    @property
    def sd(self) -> str | None:
        """The standard deviation over seeds; None for a single one."""
        return None if self.sample.sd is None else self._shown(self.sample.sd)

    @property
    def in_paper(self) -> str | None:
        """The paper's number."""
        return None if self.paper is None else self._shown(self.paper)

    @property
    def ends(self) -> tuple[str, str] | None:
        """Both ends of the interval."""
        if self.interval is None or self.interval.low is None or self.interval.high is None:
            return None
        return self._shown(self.interval.low, signed=True), self._shown(self.interval.high, signed=True)

    @property
    def behind(self) -> str:
        """What follows the mean: deviation, interval, the paper's number, and of how many seeds if not of the row's."""
        text = "" if self.sd is None else f" ± {self.sd}"
        text += "" if self.ends is None else f" [{self.ends[0]}, {self.ends[1]}]"
        remarks = [] if self.in_paper is None else [f"paper {self.in_paper}"]
        remarks += [f"n = {len(self.sample.values)}"] if 0 < len(self.sample.values) < self.finished else []
        return text + (f" ({', '.join(remarks)})" if remarks else "") + self.mark

    def of_seed(self, seed: int) -> str | None:
        """The value of one seed, as people read it."""
        values = dict(zip(self.sample.seeds, self.sample.values, strict=True))
        return self._shown(values[seed], self.signed) if seed in values else None

    def _shown(self, value: float, signed: bool = False) -> str:
        digits = _DIGITS[self.metric.unit]
        value = round(100 * value if self.metric.unit == "share" else value, digits) + 0.0  # no -0.0
        return f"{value:{'+' if signed else ''}.{digits}f}"


@dataclass(frozen=True)
class Line:
    """One row of the table: its name, of how many seeds it is made, and a cell for each column."""

    name: str
    count: str
    cells: tuple[Cell, ...]
    row: TableRow


@dataclass(frozen=True)
class Sheet:
    """A table ready to be written.

    Args:
        columns: names of the cells' columns; `row` and `n` come before.
        lines: in the order of the study.
        notes: what a reader must know.
        table: what all of it was made of.
    """

    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    table: Table

    @property
    def head(self) -> list[str]:
        """The names of all columns."""
        return ["row", "n", *self.columns]

    def explained(self, mark: str) -> list[str]:
        """What a reader must know.

        Args:
            mark: how the format marks the best, in a word.
        """
        marked = any(cell.best for line in self.lines for cell in line.cells)
        left_out = any(line.row.row.policy == KNOWS_THE_ANSWER for line in self.lines)
        alike = len(set(groups([line.row.asked for line in self.lines]))) == 1
        best = f"{mark}: the best of its column" + ("" if alike else " among rows that were asked the same questions")
        best += ", but for the oracle, which knows the answers" if left_out else ""
        return [*([best] if marked else []), *self.notes]


def sheet_of(study: Study) -> Sheet:
    """A study's table as far as the study has come.

    Raises:
        UserError: a file of a run cannot be read.
    """
    table = collect(study)
    return sheet(table, intervals(table))


def sheet(table: Table, known: Mapping[str, Interval]) -> Sheet:
    """Lay out a table.

    Args:
        table: the results.
        known: intervals of the rows' differences, by the row's name.
    """
    study = table.study
    compared = [f"{study.columns[0]} − {study.reference or REFERENCE}", SPEED_UP] if _compares(study) else []
    cells = _with_best(table, [_cells(table, row, known.get(row.name)) for row in table.rows])
    lines = tuple(
        Line(" ".join(row.name.split()), _count(row), own, row) for row, own in zip(table.rows, cells, strict=True)
    )
    return Sheet((*study.columns, *compared), lines, _notes(table, lines, known), table)


def _cells(table: Table, row: TableRow, interval: Interval | None) -> list[Cell]:
    study, count = table.study, row.finished
    said = [MISSING] * (len(study.columns) + 2)
    if not row.finished:
        said[0] = _STATES.get(row.state, "not finished")
    cells = [
        Cell(metric_of(column), row.samples[column], count, row.row.paper.get(column), said=words)
        for column, words in zip(study.columns, said, strict=False)
    ]
    if not _compares(study):
        return cells
    reference = table.reference_of(row)
    if row is reference:
        return [*cells, *[Cell(FACTOR, Sample(()), count, said=REFERENCE if row.finished else MISSING)] * 2]
    other = reference is not None and not same_questions(row.asked, reference.asked)
    said, mark = OTHER_QUESTIONS if other else MISSING, _own_references(study).get(row.row.reference or "", "")
    difference = Cell(metric_of(study.columns[0]), row.difference, count, None, interval, signed=True, said=said)
    cells += [difference, Cell(FACTOR, row.speed_up, count, said=said)]
    return [*cells[:-2], *(replace(cell, mark=mark if cell.sample.values else "") for cell in cells[-2:])]


def _compares(study: Study) -> bool:
    return bool(study.reference or _own_references(study))


def _own_references(study: Study) -> dict[str, str]:
    """The rows that some compare themselves with instead of with the study's reference, and the mark of each."""
    names = dict.fromkeys(row.reference for row in study.rows if row.reference not in (None, row.name, study.reference))
    return {name: _MARKS[n % len(_MARKS)] * (n // len(_MARKS) + 1) for n, name in enumerate(names) if name}


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
    group = groups([row.asked for row in table.rows])
    rows = [number for number, row in enumerate(table.rows) if row.row.policy != KNOWS_THE_ANSWER]
    for (place, column), own in product(enumerate(table.study.columns), sorted(set(group))):
        better = metric_of(column).better
        asked = [number for number in rows if group[number] == own]
        shown = {number: float(mean) for number in asked if (mean := cells[number][place].mean) is not None}
        if better is None or len(set(shown.values())) < 2:
            continue
        best = max(shown.values()) if better == "higher" else min(shown.values())
        for number in [number for number, mean in shown.items() if mean == best]:
            marked[number][place] = replace(marked[number][place], best=True)
    return [tuple(own) for own in marked]


def _notes(table: Table, lines: Sequence[Line], known: Mapping[str, Interval]) -> tuple[str, ...]:
    notes = ["mean ± standard deviation over n seeds, shares in percent"]
    if any(cell.in_paper for line in lines for cell in line.cells):
        measured_on = f", on {table.study.paper}" if table.study.paper else ""
        notes.append(f"in parentheses: the paper's number{measured_on}")
    if any(cell.ends for line in lines for cell in line.cells):
        drawn = (
            "seeds and questions" if len(table.study.seeds) > 1 else "questions; one seed tells nothing about others"
        )
        notes.append(f"in brackets: 95 % interval of the difference, from a paired bootstrap over {drawn}")
    if _compares(table.study):
        compared = table.study.reference or "the reference row"
        notes.append(f"{SPEED_UP}: visual tokens of an image in {compared}, divided by those in the row")
    notes += [f"{mark}: compared with {name} instead" for name, mark in _own_references(table.study).items()]
    if any(cell.said == OTHER_QUESTIONS for line in lines for cell in line.cells):
        notes.append(f"{OTHER_QUESTIONS}: than the row's reference was asked, so nothing can be said of a difference")
    notes += dict.fromkeys(f"no interval: {interval.why_not}" for interval in known.values() if interval.why_not)
    return (*notes, table.provenance)
