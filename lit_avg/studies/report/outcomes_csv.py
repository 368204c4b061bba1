"""A run's `outcomes.csv`: which questions each policy has answered right, and how two runs differ in that."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lit_avg.utils.errors import UserError

IMAGE = "image"
"""The column with the hash of a question's image, or its own key without one; tests of earlier versions have none."""

TRUE, FALSE = "1", "0"


@dataclass(frozen=True)
class Answers:
    """What one policy made of one run's test questions.

    Args:
        keys: of the questions in order, (Q,).
        images: what each is asked about, equal for questions on one image, (Q,); None where the test did not tell.
        right: whether each was answered right, (Q,) of 0 and 1.
    """

    keys: NDArray[np.str_]
    images: NDArray[np.str_] | None
    right: NDArray[np.float64]


@dataclass(frozen=True)
class Differences:
    """How two rows differ in their answers to Q questions with S seeds.

    Args:
        values: one row's answers minus the other's, (S, Q).
        images: what each question is asked about, (Q,).
    """

    values: NDArray[np.float64]
    images: NDArray[np.str_]


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
        right[here] = columns[f"correct@{tokens}"][here] == TRUE
    order = np.argsort(columns["key"])
    order = order[columns["kind"][order] == kind] if kind else order
    images = columns.get(IMAGE)
    return Answers(columns["key"][order], None if images is None else images[order], right[order])


def paired_differences(pairs: Sequence[tuple[Answers, Answers]]) -> Differences | None:
    """The first answers minus the second, by seed and question.

    Args:
        pairs: two runs' answers for each of S seeds.

    Returns:
        The questions in the order of their keys; None unless all runs were asked the same ones, on the same images as
        far as their tests told.
    """
    everybody = [answers for pair in pairs for answers in pair]
    keys = everybody[0].keys
    if not len(keys) or any(not np.array_equal(answers.keys, keys) for answers in everybody):
        return None
    told = [answers.images for answers in everybody if answers.images is not None]
    if any(not np.array_equal(images, told[0]) for images in told):
        return None
    images = told[0] if told else np.array([sample_of(key) for key in keys.tolist()])
    return Differences(np.array([own.right - other.right for own, other in pairs]), images)


def sample_of(key: str) -> str:
    """The sample that a question is of, by its key: what stands before `/<number>`, as in `000000017/3`.

    Tars of other people have keys with a `/`, too, such as `coco/000139`; but the rounds of a sample are few, and their
    numbers are not filled up with zeros.
    """
    begin, _, number = key.rpartition("/")
    numbered = begin and number.isdecimal() and number == str(int(number)) and len(number) <= 2
    return begin if numbered else key


@lru_cache(maxsize=32)  # those of the reference row and of rows that share runs
def _columns(path: Path, written: int) -> dict[str, NDArray[np.str_]]:
    """Keys, kinds, images, and what is right at each granularity and chosen by each policy, (Q,) each, as text."""
    wrong = f"{path} is not what a test writes; test again, or remove it"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            head, *lines = [*csv.reader(file)] or [list[str]()]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(wrong) from error
    levels = {tokens for line in lines for name, tokens in zip(head, line, strict=False) if name.startswith("chosen@")}
    needed = {"key", "kind", *(f"correct@{tokens}" for tokens in levels)}
    if any(len(line) != len(head) for line in lines) or not needed <= set(head):
        raise UserError(wrong)
    columns = {
        name: np.array([line[place] for line in lines], dtype=np.str_)
        for place, name in enumerate(head)
        if name in ("key", "kind", IMAGE) or name.startswith(("correct@", "chosen@"))
    }
    if IMAGE in columns:
        columns[IMAGE] = np.array([sample_of(name) for name in columns[IMAGE].tolist()], dtype=np.str_)
    judged = [values for name, values in columns.items() if name.startswith("correct@")]
    if any(not np.isin(values, (TRUE, FALSE)).all() for values in judged):
        raise UserError(wrong)
    return columns
