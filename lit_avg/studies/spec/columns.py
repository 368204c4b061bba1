"""What the columns of a table are: metrics of a test, in which unit, and whether there is a best of them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from lit_avg.studies.spec.validation import Fields, Mistake

Unit = Literal["share", "count", "factor"]


@dataclass(frozen=True)
class Metric:
    """What a number means.

    Args:
        unit: a share, which people read in percent; a number of tokens; a factor, as in `2.5×`.
        has_best: whether the highest value is marked as the best. Of tokens none is: whoever takes the coarsest level
            for everything has the fewest, and no merit.
    """

    unit: Unit
    has_best: bool


METRICS = {
    "accuracy": Metric("share", has_best=True),
    "tokens_per_tile": Metric("count", has_best=False),
    "visual_tokens": Metric("count", has_best=False),
    "token_share": Metric("share", has_best=False),
    "selected": Metric("share", has_best=False),
}
"""Those that a test reports, by the first part of their names, as `lit_avg.evaluation.metrics` has them."""


_OF_KINDS = ("accuracy", "selected")
"""Those that a test reports for kinds of questions, or levels, as well."""


def metric_of(column: str) -> Metric:
    """What a column's numbers mean; `column` is one that `column_mistakes` has nothing against."""
    return METRICS[column.partition("/")[0]]


def kinds_in_order(columns: Sequence[str], kinds: Iterable[str]) -> list[str]:
    """Kinds of questions as the study's columns have them, those without a column behind, in alphabetical order."""
    places = {column.partition("/")[2]: place for place, column in enumerate(columns) if column.startswith("accuracy/")}
    return sorted(set(kinds), key=lambda kind: (places.get(kind, len(places) + len(columns)), kind))


def column_mistakes(columns: Sequence[str]) -> list[Mistake]:
    """Columns that no test reports; which policies and kinds of questions there are, only the configs can tell."""
    mistakes = [Mistake("columns", text) for column in columns if (text := _column_mistake(column))]
    if len(set(columns)) < len(columns):
        mistakes.append(Mistake("columns", "each may be there once"))
    return mistakes


def _column_mistake(column: str) -> str | None:
    first, of_kind, kind = column.partition("/")
    if first not in METRICS or (of_kind and first not in _OF_KINDS):
        return f"there is no metric {column!r}; there are {', '.join(METRICS)}"
    if of_kind and not all(part.strip() for part in kind.split("/")):
        return f"{column!r} names no kind of questions"
    if first == "selected" and not column.rpartition("/")[2].isdecimal():
        return f"{column!r} is the share of a level, by its tokens: `selected/144`, or `selected/<kind>/144`"
    return None


def take_paper(fields: Fields, columns: Sequence[str]) -> dict[str, float]:
    """The paper's numbers for a row, by column, in the columns' own unit: `paper: {accuracy: 0.711}`."""
    said = fields.take_mapping("paper", "numbers")
    numbers = dict[str, float]()
    for column, value in said.items():
        metric = METRICS.get(column.partition("/")[0])
        if column not in columns or metric is None:
            fields.complain(f"is not a column of this table; there are {', '.join(columns)}", f"paper.{column}")
        elif not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            fields.complain(f"must be a number, but is {value!r}", f"paper.{column}")
        elif metric.unit == "share" and not 0 <= value <= 1:
            hint = f"; write {cast(float, value) / 100:g} for {value} %" if 1 < value <= 100 else ""
            fields.complain(f"must be a share between 0 and 1, but is {value}{hint}", f"paper.{column}")
        else:
            numbers[column] = float(value)
    return numbers
