"""Accuracy over an axis of the study, such as k or alpha, with a band of one standard deviation over seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lit_avg.result_names import ACCURACY
from lit_avg.studies.report.comparability import asked, comparable_groups, same_questions
from lit_avg.studies.report.drawing.style import (
    SINGLE,
    Mark,
    draw_line,
    family,
    mark,
    note,
    ordered_mark,
    tick_at,
    wrapped,
)
from lit_avg.studies.report.drawing.unfinished import footnote
from lit_avg.studies.report.results import Results, Sample, sample
from lit_avg.studies.spec.study import Row, Study

_CLOSEST = 0.12
"""The share of the axis' length that two values must be apart for both to be written."""


@dataclass(frozen=True)
class Line:
    """Rows that differ in the axis alone, by its values; a sample may be empty."""

    name: str
    points: tuple[tuple[float, Sample], ...]


def axis_names(study: Study) -> list[str]:
    """The axes of the study's rows."""
    return list(dict.fromkeys(name for row in study.rows for name in row.axes))


def number(value: Any) -> float | None:
    """A value of an axis as a number, if it is one; YAML takes `1e-3` for a text."""
    try:
        return None if isinstance(value, bool) or not math.isfinite(float(value)) else float(value)
    except (TypeError, ValueError):
        return None


def accuracy_over(study: Study, results: Results, axis_name: str) -> Figure | None:
    """A line for each value of the other axes, the reference row across; None without two finished numeric values."""
    rows = [row for row in study.rows if axis_name in row.axes]
    if any(number(row.axes[axis_name]) is None for row in rows):
        return None
    lines = lines_over(rows, results, axis_name)
    values = sorted({value for line in lines for value, found in line.points if found.values})
    if len(values) < 2:
        return None
    figure = Figure(figsize=(SINGLE, 2.4), layout="constrained")
    axis = figure.subplots()
    for look, line in zip(_marks(rows, lines, axis_name), lines, strict=True):
        values_of_line, samples = zip(*line.points, strict=True)
        draw_line(axis, values_of_line, samples, look, wrapped(line.name, SINGLE - 0.6))
    reference = [row for row in study.rows if row.name == study.reference and _alike(row, rows, results)]
    _draw_reference(axis, reference, results)
    _scale(axis, values)
    axis.set(xlabel=axis_name, ylabel="accuracy (%)" + (", mean ± sd" if len(study.seeds) > 1 else ""))
    axis.grid()
    _legend(figure, axis)
    note(figure, footnote(study, results, [*rows, *(row for row in reference if row not in rows)]))
    return figure


def lines_over(rows: Sequence[Row], results: Results, axis_name: str) -> list[Line]:
    """The rows of an axis, sorted into lines by template, the other axes and what was asked."""
    templates = {row.template for row in rows}
    lines: dict[str, list[tuple[float, Sample]]] = {}
    group = comparable_groups([asked(results[row.run]) for row in rows])
    for row, own in zip(rows, group, strict=True):
        others = [f"{name} = {value}" for name, value in row.axes.items() if name != axis_name]
        name = ", ".join([*([family(row.template)] if len(templates) > 1 or not others else []), *others])
        name += "" if own == group[0] else " (other questions)"
        value = number(row.axes[axis_name])
        assert value is not None, "the caller has looked"
        lines.setdefault(name, []).append((value, sample(results, row, ACCURACY.name)))
    return [Line(name, tuple(sorted(points, key=lambda point: point[0]))) for name, points in lines.items()]


def _marks(rows: Sequence[Row], lines: Sequence[Line], axis_name: str) -> list[Mark]:
    """Shades where the lines have an order, which is where they are the values of one other numeric axis."""
    others = {name for row in rows for name in row.axes if name != axis_name}
    ordered = len(others) == 1 and all(number(row.axes.get(name)) is not None for row in rows for name in others)
    one_template = len({row.template for row in rows}) == 1
    if not (ordered and one_template):
        return [mark(place) for place in range(len(lines))]
    (other,) = others
    values = list(dict.fromkeys(number(row.axes[other]) or 0.0 for row in rows))
    return [ordered_mark(sorted(values).index(value), len(values)) for value in values]


def _alike(reference: Row, rows: Sequence[Row], results: Results) -> bool:
    """Whether a row was asked what all others were asked."""
    return all(same_questions(asked(results[reference.run]), asked(results[row.run])) for row in rows)


def _draw_reference(axis: Axes, reference: Sequence[Row], results: Results) -> None:
    for row in reference:
        mean = sample(results, row, ACCURACY.name).mean
        if mean is not None:
            label = wrapped(f"{row.name} (reference)", SINGLE - 0.6)
            axis.axhline(100 * mean, color="black", linestyle=(0, (1, 1.5)), linewidth=1, label=label)


def _scale(axis: Axes, values: Sequence[float]) -> None:
    """Each value has its tick; where that is too dense the axis is logarithmic, linear only below its smallest step."""
    gaps = [after - before for before, after in pairwise(values)]
    if min(gaps) < _CLOSEST * (values[-1] - values[0]):
        if values[0] > 0:
            axis.set_xscale("log")
        else:
            smallest = min(abs(value) for value in values if value)
            axis.set_xscale("symlog", linthresh=smallest, linscale=0.5)
    tick_at(axis, values)


def _legend(figure: Figure, axis: Axes) -> None:
    """Above the panel, in two columns where names are short, and higher by what it takes."""
    _, names = axis.get_legend_handles_labels()
    columns = 2 if max(map(len, names)) <= 20 else 1
    lines = sum(name.count("\n") + 1 for name in names) / columns
    figure.set_figheight(figure.get_figheight() + 0.14 * math.ceil(lines) + 0.1)
    figure.legend(loc="outside upper center", ncols=columns, handlelength=3)
