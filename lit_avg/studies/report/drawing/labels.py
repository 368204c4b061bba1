"""Words beside points, where they cover neither each other nor points nor lines."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from numpy.typing import NDArray

from lit_avg.studies.report.drawing.style import SMALL

Point = tuple[float, float]
Boxes = NDArray[np.float64]
"""(boxes, 4): left, bottom, right and top of each, in pixels."""

_OFFSETS = tuple(
    (radius, math.radians(angle))
    for radius in (4, 8, 13, 19, 26, 34, 44, 56, 70)  # points (1/72 inch) between a point and its words
    for angle in (315, 45, 135, 225, 270, 90, 0, 180)  # right and below first: there a curve that flattens leaves room
)

_LEADS = 10
"""From this distance on, in points, a thin line leads to the point."""

_REACH = 4
"""Points around the middle of a mark that it covers."""


@dataclass(frozen=True)
class Label:
    """What is written beside which point."""

    text: str
    point: Point
    colour: str


def place_labels(figure: Figure, axis: Axes, labels: Sequence[Label], points: Sequence[Point]) -> list[Annotation]:
    """Write every label at the first place around its point where there is room, or where it covers least.

    Args:
        figure: all else must have been drawn.
        axis: where in the figure the points are.
        labels: in the order in which they may choose.
        points: marks that are not to be covered, besides the lines of `axis` and the labels.

    Returns:
        What was written, in the order of `labels`.
    """
    figure.draw_without_rendering()  # from here on the layout stays, as labels have no part in it
    dot = figure.dpi / 72
    marks = axis.transData.transform(np.array(points).reshape(-1, 2))
    taken = np.concatenate([_around(marks, _REACH * dot), _around(_strokes(axis), 0.5 * dot)])
    written: list[Annotation] = []
    for label, middle in zip(labels, axis.transData.transform([label.point for label in labels]), strict=True):
        measured = _write(axis, label, (0, 0))
        size = _box(measured)
        measured.remove()
        offsets = [_offset(size, radius * dot, angle) for radius, angle in _OFFSETS]
        places = [size + np.array(offset * 2) for offset in offsets]
        leads = [_leads(middle, *one, dot) for one in zip(offsets, _OFFSETS, strict=True)]
        costs = [_covered(*one, taken, _box(axis)) for one in zip(places, leads, strict=True)]
        best = costs.index(min(costs))
        taken = np.concatenate([taken, places[best][None], leads[best]])
        across, up = offsets[best]
        written.append(_write(axis, label, (across / dot, up / dot), leads=len(leads[best]) > 0))
    return written


def _write(axis: Axes, label: Label, offset: Point, leads: bool = False) -> Annotation:
    """Write a label, its middle `offset` points from its point."""
    line = {"arrowstyle": "-", "linewidth": 0.4, "color": label.colour, "shrinkA": 0, "shrinkB": 2} if leads else None
    note = axis.annotate(
        label.text, label.point, offset, textcoords="offset points", fontsize=SMALL, arrowprops=line, color=label.colour
    )
    note.set(in_layout=False, ha="center", va="center")
    return note


def _box(artist: Annotation | Axes) -> Boxes:
    return np.array(artist.get_window_extent().extents)


def _offset(box: Boxes, radius: float, angle: float) -> Point:
    """Where the middle of some words is, in pixels from the point, when their rim is at a radius from it."""
    half_width, half_height = (box[2] - box[0]) / 2, (box[3] - box[1]) / 2
    return math.cos(angle) * (radius + half_width), math.sin(angle) * (radius + half_height)


def _leads(middle: NDArray[np.float64], offset: Point, tried: Point, dot: float) -> Boxes:
    """What the line from some words to their point covers, besides the point; nothing where they are close to it."""
    if tried[0] <= _LEADS:
        return np.empty((0, 4))
    length = math.hypot(*offset)
    start = 2 * _REACH * dot / length
    return _around(middle + np.linspace(start, 1, 2 + int(length / 4))[:, None] * np.array(offset), 0.5 * dot)


def _strokes(axis: Axes) -> NDArray[np.float64]:
    """Pixels along the lines and error bars of a panel."""
    paths = [line.get_path().vertices for line in axis.lines if line.get_linestyle() != "None"]
    paths += [part for group in axis.collections if isinstance(group, LineCollection) for part in group.get_segments()]
    corners = [axis.transData.transform(np.asarray(path)) for path in paths]
    pieces = [np.linspace(a, b, 2 + int(np.hypot(*(b - a)) / 4)) for path in corners for a, b in pairwise(path)]
    return np.concatenate([np.empty((0, 2)), *pieces])


def _around(middles: NDArray[np.float64], reach: float) -> Boxes:
    return np.concatenate([middles - reach, middles + reach], axis=1)


def _covered(box: Boxes, lead: Boxes, taken: Boxes, inside: Boxes) -> float:
    """The area that a box and its line have in common with what is taken, and what lies outside, in whole pixels."""
    outside = _area(box[None]) - _common(box, inside[None])
    crossed = sum(_common(part, taken).sum() for part in lead)
    return round(float(_common(box, taken).sum() + crossed + 10 * outside.sum()))


def _common(box: Boxes, others: Boxes) -> NDArray[np.float64]:
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    return _area(np.concatenate([low, np.maximum(low, high)], axis=1))


def _area(boxes: Boxes) -> NDArray[np.float64]:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
