"""A study's two pictures: which granularities the routers choose, and what each row's accuracy costs in tokens."""

import re
from collections.abc import Mapping

import matplotlib as mpl

mpl.use("Agg")  # before pyplot: there may be no screen

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lit_avg.studies.results import Results, finished_results, sample
from lit_avg.studies.study import Row, Study

ROUTED = "router"
"""The policy whose choices are drawn."""

_SHARE = re.compile(r"router/selected/(?P<kind>[^/]+)/(?P<tokens>\d+)")

# The colours of Okabe and Ito, which all eyes tell apart; shapes tell them apart in print.
_MARKS = tuple(zip(("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"), "oDs^vP", strict=True))


def draw_figures(study: Study) -> None:
    """Write `figures/selection.png` and `figures/accuracy_tokens.png` from what is finished."""
    folder = study.out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    results = finished_results(study)
    with plt.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        for name, draw in {"selection": selection, "accuracy_tokens": accuracy_tokens}.items():
            figure = draw(study, results)
            figure.savefig(folder / f"{name}.png", dpi=160)
            plt.close(figure)


def selection(study: Study, results: Results) -> Figure:
    """Share of each granularity per question kind, a panel per routed row (in the manner of the paper's Figure 5)."""
    routed = [row for row in study.rows if row.policy == ROUTED and results[row.run]]
    panels = max(1, len(routed))
    size = (1.5 + 3.5 * panels, 4)
    figure, axes = plt.subplots(1, panels, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, row in zip(axes[0], routed, strict=False):
        _stack(axis, row, results)
    axes[0, 0].set_ylabel("share of questions (%)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], title="tokens\nper tile", loc="outside right center", frameon=False)
    return figure


def accuracy_tokens(study: Study, results: Results) -> Figure:
    """Accuracy against the share of visual tokens for every row, the fixed granularities joined by a line."""
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    rows = [row for row in study.rows if sample(results, row, "token_share").values]
    fixed = sorted((row for row in rows if row.policy.startswith("fixed ")), key=lambda row: _point(results, row))
    _mark(axis, fixed, results, "fixed granularity\n(tokens per tile)", "0.45", "o", joined="-")
    for row in fixed:
        place = _point(results, row)
        axis.annotate(row.name.removeprefix("fixed "), place, (5, -12), textcoords="offset points", color="0.35")
    others = [row for row in rows if row not in fixed]
    for number, row in enumerate(others):
        colour, shape = _MARKS[number % len(_MARKS)]
        _mark(axis, [row], results, row.name, colour, shape)
    axis.set(xlabel="visual tokens (% of the finest granularity)", ylabel="accuracy (%)")
    axis.grid(alpha=0.3)
    axis.margins(0.1)
    if rows:
        figure.legend(loc="outside right center", frameon=False)
    return figure


def _stack(axis: Axes, row: Row, results: Results) -> None:
    shares = _shares(results, row)
    kinds = list(shares)
    levels = sorted({tokens for by_level in shares.values() for tokens in by_level})
    beneath = [0.0] * len(kinds)
    shades = mpl.colormaps["cividis_r"]  # light to dark, in order for colour-blind eyes and in print too
    for number, tokens in enumerate(levels):
        heights = [100 * shares[kind].get(tokens, 0.0) for kind in kinds]
        shade = shades(number / max(1, len(levels) - 1))
        axis.bar(kinds, heights, bottom=beneath, width=0.75, color=shade, edgecolor="white", label=str(tokens))
        beneath = [low + height for low, height in zip(beneath, heights, strict=True)]
    axis.set_title(row.name)
    axis.tick_params(axis="x", rotation=30)
    axis.set_ylim(0, 100)


def _shares(results: Results, row: Row) -> Mapping[str, Mapping[int, float]]:
    """The router's choices, mean over seeds: by kind, then by tokens per tile."""
    names = sorted({name for run in results[row.run].values() for name in run["metrics"]})
    shares: dict[str, dict[int, float]] = {}
    for found in filter(None, map(_SHARE.fullmatch, names)):
        kind, tokens = found["kind"], int(found["tokens"])
        shares.setdefault(kind, {})[tokens] = sample(results, row, f"selected/{kind}/{tokens}").mean or 0.0
    return shares


def _point(results: Results, row: Row) -> tuple[float, float]:
    """Where a row stands: share of tokens and accuracy, in percent."""
    share, accuracy = (sample(results, row, metric).mean or 0.0 for metric in ("token_share", "accuracy"))
    return 100 * share, 100 * accuracy


def _mark(
    axis: Axes, rows: list[Row], results: Results, label: str, colour: str, shape: str, joined: str = "none"
) -> None:
    """Rows as points with their standard deviations over seeds."""
    if not rows:
        return
    across, up = zip(*(_point(results, row) for row in rows), strict=True)
    deviations = {
        metric: [100 * (sample(results, row, metric).sd or 0.0) for row in rows]
        for metric in ("token_share", "accuracy")
    }
    axis.errorbar(
        across,
        up,
        xerr=deviations["token_share"],
        yerr=deviations["accuracy"],
        label=label,
        color=colour,
        marker=shape,
        linestyle=joined,
        capsize=2,
        elinewidth=0.8,
    )
