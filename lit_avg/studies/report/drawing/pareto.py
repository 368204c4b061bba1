"""Which rows are worth their tokens."""

from collections.abc import Sequence

Point = tuple[float, float]
"""What a row costs, and what it achieves."""


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Those to which no other is preferable: none costs no more and achieves no less, one of them strictly.

    Args:
        points: (cost, gain) of each.

    Returns:
        Their places in `points`, cheapest first; of equal points all.
    """
    front: list[int] = []
    for place in sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1])):
        best = points[front[-1]] if front else None
        if best is None or points[place][1] > best[1] or points[place] == best:
            front.append(place)
    return front
