"""Accuracy of each kind of question at each fixed granularity: what there is for a router to find."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from lit_avg.studies.drawing.cost import FIXED
from lit_avg.studies.drawing.style import mark, note, panels, wrapped
from lit_avg.studies.drawing.unfinished import footnote
from lit_avg.studies.results import Results, Sample, sample
from lit_avg.studies.study import Row, Study


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
    kinds = sorted({kind for rows in by_run.values() for row in rows for kind in kinds_of(results, row)})
    for axis, (run, rows) in zip(axes, by_run.items(), strict=True):
        _draw(axis, rows, kinds, results)
        if len(by_run) > 1:
            axis.set_title(wrapped(run, 1.8, 8), loc="left")
    axes[0].set_ylabel("accuracy (%)" + (", mean ± sd" if len(study.seeds) > 1 else ""))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3 if len(by_run) == 1 else 6, handlelength=3)
    note(figure, footnote(study, results, fixed))
    return figure


def kinds_of(results: Results, row: Row) -> list[str]:
    """The kinds of question that a row's results tell apart."""
    start = f"{row.policy}/accuracy/"
    names = {name for run in results[row.run].values() for name in run["metrics"]}
    return sorted(name.removeprefix(start) for name in names if name.startswith(start))


def _draw(axis: Axes, rows: Sequence[Row], kinds: Sequence[str], results: Results) -> None:
    by_level = {int(row.policy.removeprefix(FIXED)): row for row in rows}
    levels = sorted(by_level)
    for number, kind in enumerate(kinds):
        samples = [sample(results, by_level[level], f"accuracy/{kind}") for level in levels]
        look = mark(number)
        axis.plot(levels, _shifted(samples, 0), color=look.colour, marker=look.shape, linestyle=look.line, label=kind)
        axis.fill_between(
            levels, _shifted(samples, -1), _shifted(samples, 1), color=look.colour, alpha=0.18, linewidth=0
        )
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_locator(FixedLocator(levels))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.grid()


def _shifted(samples: Sequence[Sample], deviations: float) -> list[float]:
    """Means in percent and so many standard deviations; not a number where there is none, which breaks the line."""
    return [
        float("nan") if found.mean is None else 100 * (found.mean + deviations * (found.sd or 0.0)) for found in samples
    ]
