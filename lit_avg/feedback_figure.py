"""The picture of a feedback report: which granularity is best for whom, and what accuracy costs in tokens."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # before pyplot: there may be no screen

from matplotlib import pyplot as plt
from matplotlib.axes import Axes


def draw_report(
    shares: Mapping[str, Sequence[float]],
    fixed: Mapping[int, tuple[float, float]],
    curve: Sequence[tuple[float, float, float]],
    path: Path,
) -> None:
    """Write the picture.

    Args:
        shares: how often each of the levels is best, for each group of questions.
        fixed: tokens per tile to (share of the finest level's tokens, accuracy).
        curve: the ideal router's (ε, share of the finest level's tokens, accuracy).
        path: of the PNG.
    """
    with plt.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        height = 1.6 + 0.4 * max(6, len(shares))
        figure, (left, right) = plt.subplots(1, 2, figsize=(12, height), layout="constrained")
        _stack(left, shares, list(fixed))
        _trade(right, fixed, curve)
        figure.savefig(path, dpi=140)
        plt.close(figure)


def _stack(axis: Axes, shares: Mapping[str, Sequence[float]], granularities: Sequence[int]) -> None:
    """A bar for each group, coarse to fine."""
    colours = mpl.colormaps["viridis"]
    names = list(shares)[::-1]
    lefts = [0.0] * len(names)
    for level, tokens in enumerate(granularities):
        widths = [100 * shares[name][level] for name in names]
        colour = colours(level / max(1, len(granularities) - 1))
        axis.barh(names, widths, left=lefts, color=colour, label=str(tokens))
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
    axis.set(xlim=(0, 100), ylim=(-0.6, max(1.6, len(names) - 0.4)))  # a single group is no wall
    axis.set_xlabel("questions for which a granularity has the best feedback (%)")
    axis.legend(title="tokens per tile", ncols=len(granularities), loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _trade(axis: Axes, fixed: Mapping[int, tuple[float, float]], curve: Sequence[tuple[float, float, float]]) -> None:
    """Accuracy against tokens."""
    axis.plot([x * 100 for x, _ in fixed.values()], [y for _, y in fixed.values()], "o-", color="0.5", label="fixed")
    for tokens, (x, y) in fixed.items():
        axis.annotate(str(tokens), (100 * x, y), (4, -12), textcoords="offset points", color="0.35")
    axis.plot([100 * x for _, x, _ in curve], [y for _, _, y in curve], "D-", color="#D55E00", label="ideal router")
    axis.annotate("ε = 0", (100 * curve[0][1], curve[0][2]), (6, 4), textcoords="offset points", color="#D55E00")
    axis.set_xlabel("visual tokens, of those of the finest granularity (%)")
    axis.set_ylabel("accuracy")
    axis.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
