"""Options of the verbs that are not Lightning's: a mistake in one is told in one line, as all mistakes are.

parser = VerbParser(prog="lit-avg sweep", description=__doc__)
parser.add_argument("--jobs", type=whole_number(least=1), default=1, help="…")
"""

import math
import re
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from typing import NoReturn, TypeVar

from lit_avg.utils.arguments import check_number, in_words
from lit_avg.utils.errors import UserError

Kind = TypeVar("Kind", int, float)

MOST_PROCESSES = 1024
"""That may be asked for; more of them is a slip of the pen that would bring down the machine."""

LONGEST_WAIT = 86400.0
"""Seconds between two looks."""


class VerbParser(ArgumentParser):
    """argparse's, but for what it does with a mistake: no page of usage, one line."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command.

        Raises:
            UserError: always.
        """
        told = re.sub(r"^argument (.*?): must be", r"\1 must be", message).removeprefix("argument ")
        raise UserError(f"{told} (`{self.prog} --help` lists the options)")


def whole_number(*, least: int, most: int | None = None) -> Callable[[str], int]:
    """The type of an option that takes a whole number."""
    return _bounded(int, "a whole number", {"least": least, "most": math.inf if most is None else most})


def number(**bounds: float) -> Callable[[str], float]:
    """The type of an option that takes a number; bounds as in `check_number`."""
    return _bounded(float, "a number", bounds)


def process_count() -> Callable[[str], int]:
    """The type of an option that says how many processes there are to be."""
    return whole_number(least=1, most=MOST_PROCESSES)


def _bounded(kind: type[Kind], what: str, bounds: dict[str, float]) -> Callable[[str], Kind]:
    def parsed(text: str) -> Kind:
        try:
            value = kind(text)
            check_number("", value, **bounds)
        except ValueError as error:  # no number, or not within
            raise ArgumentTypeError(f"must be {in_words(what, **bounds)}, but is {text}") from error
        return value

    return parsed
