"""What the columns of a table are: metrics of a test, whose meaning a study learns from the configs' check."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from lit_avg.result_names import ACCURACY, SELECTED, MetricMeaning
from lit_avg.studies.spec.validation import Fields, Mistake

Meanings = Mapping[str, MetricMeaning]
"""What the metrics of a study's tests mean, by the first part of their names."""


def meaning_of(column: str, known: Meanings) -> MetricMeaning:
    """What a column's numbers mean; `column` is one that `column_mistakes` has nothing against."""
    return known[column.partition("/")[0]]


def kinds_in_order(columns: Sequence[str], kinds: Iterable[str]) -> list[str]:
    """Kinds of questions as the study's columns have them, those without a column behind, in alphabetical order."""
    begin = f"{ACCURACY.name}/"
    places = {column.removeprefix(begin): place for place, column in enumerate(columns) if column.startswith(begin)}
    return sorted(set(kinds), key=lambda kind: (places.get(kind, len(places) + len(columns)), kind))


def column_mistakes(columns: Sequence[str], known: Meanings, others: bool) -> list[Mistake]:
    """Columns that no test reports; which policies and kinds of questions there are, only the configs can tell.

    Args:
        columns: of the study.
        known: the metrics that are known.
        others: there may be more of them, since the configs have not been checked.
    """
    wanted = [column for column in columns if column.partition("/")[0] in known or not others]
    mistakes = [Mistake("columns", text) for column in wanted if (text := _column_mistake(column, known))]
    if len(set(columns)) < len(columns):
        mistakes.append(Mistake("columns", "each may be there once"))
    return mistakes


def _column_mistake(column: str, known: Meanings) -> str | None:
    first, of_kind, kind = column.partition("/")
    if first not in known or (of_kind and not known[first].by_kind):
        return f"there is no metric {column!r}; there are {', '.join(known)}"
    if of_kind and not all(part.strip() for part in kind.split("/")):
        return f"{column!r} names no kind of questions"
    if first == SELECTED.name and not column.rpartition("/")[2].isdecimal():
        return f"{column!r} is the share of a level, by its tokens: `selected/144`, or `selected/<kind>/144`"
    return None


def take_paper(fields: Fields, columns: Sequence[str], known: Meanings) -> dict[str, float]:
    """The paper's numbers for a row, by column, in the columns' own unit: `paper: {accuracy: 0.711}`."""
    said = fields.take_mapping("paper", "numbers")
    numbers = dict[str, float]()
    for column, value in said.items():
        metric = known.get(column.partition("/")[0])
        if column not in columns:
            fields.complain(f"is not a column of this table; there are {', '.join(columns)}", f"paper.{column}")
        elif not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            fields.complain(f"must be a number, but is {value!r}", f"paper.{column}")
        elif metric is not None and metric.unit == "share" and not 0 <= value <= 1:
            hint = f"; write {cast(float, value) / 100:g} for {value} %" if 1 < value <= 100 else ""
            fields.complain(f"must be a share between 0 and 1, but is {value}{hint}", f"paper.{column}")
        else:
            numbers[column] = float(value)
    return numbers
