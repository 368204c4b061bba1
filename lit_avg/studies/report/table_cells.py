"""A table before anyone asks in which format: the numbers of each cell, and how people read them.

Every format is made of a `TableSheet` and says the same, since none of them formats a number of its own.
"""

from dataclasses import dataclass

from lit_avg.result_names import MetricMeaning
from lit_avg.studies.report.comparability import comparable_groups
from lit_avg.studies.report.intervals import Interval
from lit_avg.studies.report.results import Sample, Table, TableRow

MISSING = "–"
SPEED_UP = "token speed-up"

_DIGITS = {"share": 1, "count": 1, "number": 3, "factor": 2}


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

    metric: MetricMeaning
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
class TableRowView:
    """One row of the table: its name, of how many seeds it is made, and a cell for each column."""

    name: str
    count: str
    cells: tuple[Cell, ...]
    row: TableRow


@dataclass(frozen=True)
class TableSheet:
    """A table ready to be written.

    Args:
        columns: names of the cells' columns; `row` and `n` come before.
        lines: in the order of the study.
        notes: what a reader must know.
        table: what all of it was made of.
    """

    columns: tuple[str, ...]
    lines: tuple[TableRowView, ...]
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
        left_out = {line.row.row.policy for line in self.lines} & self.table.study.know_the_answer
        alike = len(set(comparable_groups([line.row.asked for line in self.lines]))) == 1
        best = f"{mark}: the best of its column" + ("" if alike else " among rows that were asked the same questions")
        know = "knows" if len(left_out) == 1 else "know"
        best += f", but for the {' and the '.join(sorted(left_out))}, which {know} the answers" if left_out else ""
        return [*([best] if marked else []), *self.notes]


def one_line(text: str) -> str:
    """A name as it stands in a table: YAML's may have line breaks."""
    return " ".join(text.split())
