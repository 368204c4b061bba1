"""Which rows were asked the same questions: only those can be better than one another.

A row may be tested on other data than the rest, such as another kind of image. Every test leaves a hash of what it
asked in `result.json`; results from before it did so tell nothing, and count as asked the same while all others agree.
"""

from collections.abc import Mapping, Sequence
from typing import Any

QUESTIONS = "questions"
"""The entry of `result.json`: hash of the samples of the test split and the keys of the questions."""

Asked = frozenset[str]
"""The hashes of a row's runs; one, unless each seed has a test set of its own; empty where nobody tells."""


def asked(results: Mapping[int, Mapping[str, Any]]) -> Asked:
    """What a row's runs were asked, from their results by seed."""
    return frozenset(result[QUESTIONS] for result in results.values() if result.get(QUESTIONS))


def same_questions(first: Asked, second: Asked) -> bool:
    """Whether nothing tells that two rows were asked different questions."""
    return not first or not second or not first.isdisjoint(second)


def comparable_groups(rows: Sequence[Asked]) -> list[int]:
    """The number of the group that each row belongs to, groups being asked the same.

    Rows that tell nothing belong to the others if these are one group, and are one of their own if not.
    """
    heads = list[set[str]]()
    for row in rows:
        if row and (head := next((head for head in heads if head & row), None)) is not None:
            head |= row
        elif row:
            heads.append(set(row))
    untold = len(heads) if len(heads) > 1 else 0
    return [next((n for n, head in enumerate(heads) if head & row), untold) for row in rows]
