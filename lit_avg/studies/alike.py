"""Which rows were asked the same questions: only those can be better than one another.

A row may be tested on other data than the rest, such as another kind of picture. Every test leaves a hash of its
questions in `result.json`; results from before it did so count as asked the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any

QUESTIONS = "questions"
"""The entry of `result.json`: hash of the keys of all test questions."""

Asked = Mapping[int, str]
"""Hash of the questions of a row's runs, by seed, for those that tell it."""


def asked(results: Mapping[int, Mapping[str, Any]]) -> dict[int, str]:
    """What a row's runs were asked, from their results by seed."""
    return {seed: result[QUESTIONS] for seed, result in results.items() if result.get(QUESTIONS)}


def same_questions(first: Asked, second: Asked) -> bool:
    """Whether nothing tells that two rows were asked different questions with the same seed."""
    return all(second.get(seed, questions) == questions for seed, questions in first.items())


def groups(rows: Sequence[Asked]) -> list[int]:
    """The number of the group that each row belongs to, groups being asked the same; the first row's group is 0."""
    heads = list[Asked]()
    numbers = list[int]()
    for row in rows:
        number = next((number for number, head in enumerate(heads) if same_questions(head, row)), len(heads))
        if number == len(heads):
            heads.append(row)
        numbers.append(number)
    return numbers
