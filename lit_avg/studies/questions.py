"""A run's `outcomes.csv`: which questions each policy has answered right, and how two runs differ in that."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lit_avg.errors import UserError


@dataclass(frozen=True)
class Answers:
    """What one policy made of one run's test questions.

    Args:
        keys: of the questions in order, (Q,).
        right: whether each was answered right, (Q,) of 0 and 1.
    """

    keys: NDArray[np.str_]
    right: NDArray[np.float64]


def read_answers(path: Path, policy: str, kind: str = "") -> Answers | None:
    """One policy's answers to all questions, or to those of one kind.

    Returns:
        None where there is no such file, or it does not say what the policy chose.

    Raises:
        UserError: the file is not what a test writes.
    """
    if not path.is_file():
        return None
    columns = _columns(path, path.stat().st_mtime_ns)
    chosen = columns.get(f"chosen@{policy}")
    if chosen is None:
        return None
    right = np.zeros(len(chosen))
    for tokens in np.unique(chosen):
        here = chosen == tokens
        right[here] = columns[f"correct@{tokens}"][here] == "1"
    order = np.argsort(columns["key"])
    order = order[columns["kind"][order] == kind] if kind else order
    return Answers(columns["key"][order], right[order])


def paired_differences(pairs: Sequence[tuple[Answers, Answers]]) -> NDArray[np.float64] | None:
    """The first answers minus the second, by seed and question.

    Args:
        pairs: two runs' answers for each of S seeds.

    Returns:
        (S, Q), the questions in the order of their keys; None unless all runs were asked the same ones.
    """
    keys = pairs[0][0].keys
    if not len(keys) or any(not np.array_equal(answers.keys, keys) for pair in pairs for answers in pair):
        return None
    return np.array([own.right - other.right for own, other in pairs])


@lru_cache(maxsize=32)  # those of the reference row and of rows that share runs
def _columns(path: Path, written: int) -> dict[str, NDArray[np.str_]]:
    """Keys, kinds, and what is right at each granularity and chosen by each policy, (Q,) each, as text."""
    with path.open(newline="", encoding="utf-8") as file:
        head, *lines = [*csv.reader(file)] or [list[str]()]
    levels = {tokens for line in lines for name, tokens in zip(head, line, strict=False) if name.startswith("chosen@")}
    needed = {"key", "kind", *(f"correct@{tokens}" for tokens in levels)}
    if any(len(line) != len(head) for line in lines) or not needed <= set(head):
        raise UserError(f"{path} is not what a test writes; test again, or remove it")
    wanted = [
        (place, name)
        for place, name in enumerate(head)
        if name in ("key", "kind") or name.startswith(("correct@", "chosen@"))
    ]
    return {name: np.array([line[place] for line in lines], dtype=np.str_) for place, name in wanted}
