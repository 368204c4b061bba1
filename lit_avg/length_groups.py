"""Which prompts to continue together: padding costs, and so does another round of single steps."""

from collections.abc import Sequence

STEP = 100
"""What one step of generation costs, in tokens of a prompt: it reads all weights for a handful of tokens."""


def groups_of_like_length(lengths: Sequence[int], cost_of_group: float) -> list[list[int]]:
    """Partition sequences so that their padded tokens and the groups' own cost are the least together.

    Args:
        lengths: tokens of each sequence.
        cost_of_group: in tokens.

    Returns:
        Places of the sequences, group by group, shortest first.
    """
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    best: list[tuple[float, int]] = [
        (0.0, 0)
    ]  # of the first n in order: the least cost, and where the last group begins
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        best.append(min((best[begin][0] + longest * (end - begin) + cost_of_group, begin) for begin in range(end)))
    groups, end = list[list[int]](), len(order)
    while end:
        begin = best[end][1]
        groups.insert(0, order[begin:end])
        end = begin
    return groups
