"""Accuracy of each kind of question at each fixed granularity: what there is for a router to find."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lit_avg.result_names import ACCURACY, FIXED
from lit_avg.studies.report.drawing.cost import shared_name
from lit_avg.studies.report.drawing.style import draw_line, mark, note, panels, tick_at, wrapped
from lit_avg.studies.report.drawing.unfinished import footnote
from lit_avg.studies.report.results import Results, sample
from lit_avg.studies.spec.columns import kinds_in_order
from lit_avg.studies.spec.study import Row, Study


def accuracy_by_kind(study: Study, results: Results) -> Figure | None:
    """A panel for each run that has rows of two fixed levels or more, a line for each kind; None without one."""
    fixed = [row for row in study.rows if row.policy.startswith(FIXED)]
    by_run: dict[str, list[Row]] = {}
    for row in fixed:
        if kinds_of(results, row):
            by_run.setdefault(row.run, []).append(row)
    by_run = {run: rows for run, rows in by_run.items() if len(rows) > 1}
    if not by_run:
        return None
    figure, axes = panels(len(by_run), 2.1, "tokens per tile")
    figure.set_figheight(figure.get_figheight() + 0.5)  # the legend's
    kinds = kinds_in_order(study.columns, [kind for row in fixed for kind in kinds_of(results, row)])
    for axis, rows in zip(axes, by_run.values(), strict=True):
        _draw(axis, rows, kinds, results)
        if len(by_run) > 1:
            axis.set_title(wrapped(shared_name(rows), 1.8, 8), loc="left")
    axes[0].set_ylabel("accuracy (%)" + (", mean ± sd" if len(study.seeds) > 1 else ""))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3 if len(by_run) == 1 else 6, handlelength=3)
    note(figure, footnote(study, results, fixed))
    return figure


def kinds_of(results: Results, row: Row) -> list[str]:
    """The kinds of question that a row's results tell apart."""
    start = f"{row.policy}/{ACCURACY.name}/"
    names = {name for run in results[row.run].values() for name in run["metrics"]}
    return sorted(name.removeprefix(start) for name in names if name.startswith(start))


def _draw(axis: Axes, rows: Sequence[Row], kinds: Sequence[str], results: Results) -> None:
    by_level = {int(row.policy.removeprefix(FIXED)): row for row in rows}
    levels = sorted(by_level)
    for number, kind in enumerate(kinds):
        samples = [sample(results, by_level[level], f"{ACCURACY.name}/{kind}") for level in levels]
        draw_line(axis, levels, samples, mark(number), kind)
    axis.set_xscale("log", base=2)
    tick_at(axis, levels)
    axis.grid()
