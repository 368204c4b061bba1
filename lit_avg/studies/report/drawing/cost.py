"""Accuracy against visual tokens: what each row costs and achieves, and which of them are worth their tokens."""

from collections.abc import Collection, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lit_avg.result_names import ACCURACY, FIXED, TOKEN_SHARE
from lit_avg.studies.report.comparability import asked, comparable_groups
from lit_avg.studies.report.drawing.labels import Label, Point, place_labels
from lit_avg.studies.report.drawing.pareto import pareto_front
from lit_avg.studies.report.drawing.style import DOUBLE, FIXED_GREY, FRONT_GREY, SMALL, family, mark, note, wrapped
from lit_avg.studies.report.drawing.unfinished import footnote
from lit_avg.studies.report.results import Results, sample
from lit_avg.studies.spec.study import Row, Study

_NAMED = 6
"""Rows of one template that are all named in the figure; of more, only those on the front are."""

_METRICS = (TOKEN_SHARE.name, ACCURACY.name)


def accuracy_tokens(study: Study, results: Results) -> Figure | None:
    """Every row as a point, fixed levels joined, the Pareto front in steps; None before a row is finished."""
    rows = [row for row in study.rows if all(sample(results, row, metric).values for metric in _METRICS)]
    if not rows:
        return None
    figure = Figure(figsize=(DOUBLE, 3.2), layout="constrained")
    axis = figure.subplots()
    points = {row.name: point_of(results, row) for row in rows}
    best = _draw_front(axis, study, rows, points, results)
    labels = [*_draw_fixed(axis, rows, results), *_draw_others(axis, rows, best, results)]
    axis.set(xlabel="visual tokens (% of the finest granularity)", ylabel=f"accuracy (%){_spread(study)}")
    axis.grid()
    axis.margins(0.08)
    legend = figure.legend(loc="outside right upper", labelspacing=0.6, handlelength=3.2)
    lines = sum(text.get_text().count("\n") + 1 for text in legend.get_texts())
    figure.set_figheight(max(3.2, 1.45 * SMALL / 72 * lines + 0.4))
    note(figure, footnote(study, results, study.rows))
    place_labels(figure, axis, labels, list(points.values()))
    return figure


def point_of(results: Results, row: Row) -> Point:
    """Where a row stands: share of tokens and accuracy, in percent, means over seeds."""
    share, accuracy = (sample(results, row, metric).mean or 0.0 for metric in _METRICS)
    return 100 * share, 100 * accuracy


def front_of(rows: Sequence[Row], points: Sequence[Point], informed: Collection[str]) -> list[Row]:
    """The rows that no other makes needless.

    Args:
        rows: of the study.
        points: where each stands.
        informed: policies that know the answers, which are left out: nobody can have what they achieve.
    """
    possible = [number for number, row in enumerate(rows) if row.policy not in informed]
    return [rows[possible[place]] for place in pareto_front([points[number] for number in possible])]


def shared_name(fixed: Sequence[Row]) -> str:
    """What rows of one run with fixed levels are called besides their levels; the run's name if they do not agree."""
    names = {row.name.replace(row.policy, "").strip(" ,;:·–-()") for row in fixed}
    return names.pop() if len(names) == 1 and "" not in names else fixed[0].run


def comparable(study: Study, rows: Sequence[Row], results: Results) -> list[Row]:
    """The rows that were asked what the study's reference was asked, or the first row where there is none."""
    first = next((number for number, row in enumerate(rows) if row.name == study.reference), 0)
    group = comparable_groups([asked(results[row.run]) for row in rows])
    return [row for number, row in enumerate(rows) if group[number] == group[first]]


def _draw_front(axis: Axes, study: Study, rows: Sequence[Row], points: dict[str, Point], results: Results) -> set[str]:
    """The best that so many tokens buy, as steps; the names of the rows on it."""
    alike = comparable(study, rows, results)
    front = [row.name for row in front_of(alike, [points[row.name] for row in alike], study.know_the_answer)]
    if front:
        across, up = zip(*(points[name] for name in front), strict=True)
        steps = axis.step(across, up, where="post", color=FRONT_GREY, linestyle=(0, (4, 2)), linewidth=1)
        informed = sorted({row.policy for row in alike} & study.know_the_answer)
        without = [f"the {policy}" for policy in informed] if len(front) < len(alike) else []
        without += ["rows asked other questions"] if len(alike) < len(rows) else []
        steps[0].set_label(wrapped("Pareto front" + (f" (without {' and '.join(without)})" if without else ""), 2.1))
    return set(front)


def _draw_fixed(axis: Axes, rows: Sequence[Row], results: Results) -> list[Label]:
    """The fixed levels of each run, joined."""
    fixed = [row for row in rows if row.policy.startswith(FIXED)]
    runs = list(dict.fromkeys(row.run for row in fixed))
    labels: list[Label] = []
    for run, line in zip(runs, ("-", "--", "-.", ":") * len(runs), strict=False):
        own = sorted((row for row in fixed if row.run == run), key=lambda row: point_of(results, row))
        name = f"fixed, {shared_name(own)}" if len(runs) > 1 else "fixed granularity (tokens per tile)"
        _points(axis, own, results, name, FIXED_GREY, "o", line)
        labels += [Label(row.policy.removeprefix(FIXED), point_of(results, row), FIXED_GREY) for row in own]
    return labels


def _draw_others(axis: Axes, rows: Sequence[Row], best: set[str], results: Results) -> list[Label]:
    """All other rows, those of one template under one mark."""
    others = [row for row in rows if not row.policy.startswith(FIXED)]
    labels: list[Label] = []
    for number, template in enumerate(dict.fromkeys(row.template for row in others)):
        alike = [row for row in others if row.template == template]
        look = mark(number)
        name = alike[0].name if not alike[0].axes else f"{family(template)} ({len(alike)} rows)"
        _points(axis, alike, results, name, look.colour, look.shape)
        named = [row for row in alike if row.axes and (len(alike) <= _NAMED or row.name in best)]
        labels += [Label(_values(row), point_of(results, row), look.colour) for row in named]
    return labels


def _values(row: Row) -> str:
    return ", ".join(f"{axis} {value}" for axis, value in row.axes.items())


def _spread(study: Study) -> str:
    return ", mean ± sd over seeds" if len(study.seeds) > 1 else ""


def _points(
    axis: Axes, rows: list[Row], results: Results, name: str, colour: str, shape: str, line: str = "none"
) -> None:
    """Rows as points with their standard deviations over seeds."""
    across, up = zip(*(point_of(results, row) for row in rows), strict=True)
    wide, high = ([100 * (sample(results, row, metric).sd or 0.0) for row in rows] for metric in _METRICS)
    label = wrapped(name, 2.1)
    bars = axis.errorbar(across, up, xerr=wide, yerr=high, label=label, color=colour, marker=shape, linestyle=line)
    for bar in bars.lines[2]:
        bar.set(linewidth=0.6, alpha=0.6)
