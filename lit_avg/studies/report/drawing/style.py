"""How figures look: widths of a printed page, letters that can be read there, marks that all eyes tell apart."""

import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from lit_avg.studies.report.results import Sample

SINGLE, DOUBLE = 3.3, 6.9
"""Widths of one and of two columns of a printed page, in inches."""

SMALL = 7
"""Points of the smallest letters."""

SETTINGS: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so a figure is the same everywhere
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.title_fontsize": SMALL,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.5,
    "grid.color": "0.88",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "pdf.fonttype": 42,  # TrueType inside: text stays text, and printers want it
}

FIXED_GREY, FRONT_GREY = "0.35", "0.6"

# Okabe and Ito's, without the yellow that white paper swallows and the black that the reference is drawn in.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_SHAPES = "oDs^vPX"  # seven to six colours: forty-two pairs before one comes again
_LINES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Mark:
    """What tells one thing from another: its colour, and in black and white its shape and its line."""

    colour: str
    shape: str
    line: str


def mark(number: int) -> Mark:
    """The mark of the `number`th thing among things without an order."""
    return Mark(*(choices[number % len(choices)] for choices in (_COLOURS, _SHAPES, _LINES)))


def ordered_mark(number: int, among: int) -> Mark:
    """The mark of the `number`th among things in an order: dark to light, as far as white paper shows it."""
    return Mark(shade(0.85 * number / max(1, among - 1)), _SHAPES[number % len(_SHAPES)], _LINES[number % len(_LINES)])


def shade(position: float) -> str:
    """A colour of cividis, dark at 0 and light at 1, in order for colour-blind eyes and in print too."""
    return to_hex(mpl.colormaps["cividis"](position))


def draw_line(axis: Axes, values: Sequence[float], samples: Sequence[Sample], look: Mark, name: str) -> None:
    """Means in percent with a band of one standard deviation; the line breaks where a sample is empty."""
    means = [math.nan if found.mean is None else 100 * found.mean for found in samples]
    low, high = (
        [mean + side * 100 * (found.sd or 0.0) for mean, found in zip(means, samples, strict=True)] for side in (-1, 1)
    )
    axis.plot(values, means, color=look.colour, marker=look.shape, linestyle=look.line, label=name)
    axis.fill_between(values, low, high, color=look.colour, alpha=0.14, linewidth=0)


def tick_at(axis: Axes, values: Sequence[float]) -> None:
    """A tick at each value of the horizontal axis, with the value as people write it."""
    axis.xaxis.set_major_locator(FixedLocator(values))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def panels(count: int, height: float, across: str) -> tuple[Figure, list[Axes]]:
    """A figure of equal panels with common axes.

    Args:
        count: how many panels; one fills one column of a page, more fill two.
        height: of a panel, in inches.
        across: what the lowest of them say beneath.

    Returns:
        The figure and its panels, row by row.
    """
    columns = min(count, 3 if count <= 9 else 4)  # so that twenty panels and a legend fill a page
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(SINGLE if count == 1 else DOUBLE, rows * height), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for unused in grid.flat[count:]:
        unused.remove()
    for lowest in grid.flat[max(0, count - columns) : count]:
        lowest.tick_params(labelbottom=True)  # below it the grid may be empty
        lowest.set_xlabel(across)
    return figure, list(grid.flat[:count])


def wrapped(text: str, inches: float, points: float = SMALL) -> str:
    """A text in lines that fit into a width; letters of DejaVu Sans are half their size wide, on average."""
    return textwrap.fill(text, max(8, int(72 * inches / (0.55 * points))))


def family(template: str) -> str:
    """What rows of one template are called together: `k = {k}` is `k = …`."""
    return re.sub(r"\{[^{}]*\}", "…", template)


def note(figure: Figure, text: str) -> None:
    """Small words at the foot of a figure, on what cannot be seen in it."""
    if not text:
        return
    width = figure.get_figwidth()
    lines = wrapped(text, width)
    figure.set_figheight(figure.get_figheight() + SMALL * 1.3 / 72 * (lines.count("\n") + 1))
    figure.supxlabel(lines, x=0.01, ha="left", fontsize=SMALL, color=FIXED_GREY)
