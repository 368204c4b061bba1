"""Which granularities the routers choose for each kind of question, in the manner of the paper's Figure 5."""

import re
from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lit_avg.result_names import ROUTER, SELECTED
from lit_avg.studies.report.drawing.style import SMALL, note, panels, shade, wrapped
from lit_avg.studies.report.drawing.unfinished import footnote
from lit_avg.studies.report.results import Results, sample
from lit_avg.studies.spec.columns import kinds_in_order
from lit_avg.studies.spec.study import Row, Study

_SHARE = re.compile(rf"{ROUTER}/{SELECTED.name}/(?P<kind>[^/]+)/(?P<tokens>\d+)")
_BAR = 0.17
"""Inches from one bar to the next: room for small letters."""

Shares = Mapping[str, Mapping[int, float]]
"""Of a row's choices, by kind, then by tokens per tile."""


def selection(study: Study, results: Results) -> Figure | None:
    """A panel for each routed row, a bar for each kind of question; None before a routed row is finished."""
    routed = [row for row in study.rows if row.policy == ROUTER]
    shares = {row.name: shares_of(results, row) for row in routed}
    drawn = [row for row in routed if shares[row.name]]
    if not drawn:
        return None
    kinds = kinds_in_order(study.columns, [kind for row in drawn for kind in shares[row.name]])
    levels = sorted({tokens for row in drawn for by_level in shares[row.name].values() for tokens in by_level})
    titles = [wrapped(row.name, 2.4 if len(drawn) == 1 else 1.7 if len(drawn) <= 9 else 1.25, 8) for row in drawn]
    lines = max(title.count("\n") for title in titles) + 1
    figure, axes = panels(len(drawn), _BAR * len(kinds) + 0.15 * lines + 0.35, "share of questions (%)")
    figure.set_figheight(figure.get_figheight() + 0.5)  # the legend's
    for axis, row, title in zip(axes, drawn, titles, strict=True):
        _stack(axis, shares[row.name], kinds, levels)
        axis.set_title(title, loc="left")
    axes[0].invert_yaxis()  # the first kind on top; the panels share their axes
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, title="tokens per tile", loc="outside upper center", ncols=min(7, len(levels)), handlelength=1
    )
    note(figure, footnote(study, results, routed))
    return figure


def shares_of(results: Results, row: Row) -> Shares:
    """The router's choices, mean over seeds."""
    names = sorted({name for run in results[row.run].values() for name in run["metrics"]})
    shares: dict[str, dict[int, float]] = {}
    for found in filter(None, map(_SHARE.fullmatch, names)):
        kind, tokens = found["kind"], int(found["tokens"])
        mean = sample(results, row, f"{SELECTED.name}/{kind}/{tokens}").mean
        if mean is not None:
            shares.setdefault(kind, {})[tokens] = mean
    return shares


def _stack(axis: Axes, shares: Shares, kinds: list[str], levels: list[int]) -> None:
    """One bar a kind, coarse to fine from light to dark; wide parts say how wide they are."""
    before = [0.0] * len(kinds)
    for number, tokens in enumerate(levels):
        widths = [100 * shares.get(kind, {}).get(tokens, 0.0) for kind in kinds]
        position = 1 - number / max(1, len(levels) - 1)
        bars = axis.barh(
            kinds, widths, left=before, height=0.8, color=shade(position), edgecolor="white", linewidth=0.5
        )
        bars.set_label(str(tokens))
        words = [f"{width:.0f}" if width >= 15 else "" for width in widths]
        axis.bar_label(bars, words, label_type="center", fontsize=SMALL, color="black" if position >= 0.5 else "white")
        before = [low + width for low, width in zip(before, widths, strict=True)]
    axis.set_xlim(0, 100)
    axis.tick_params(axis="y", length=0)
