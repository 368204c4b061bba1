"""Checks of what a user gives for an argument: a number that cannot be meant is refused at once, with its name."""

import math
from collections.abc import Iterable, Mapping

from lit_avg.utils.errors import UserError

LARGEST_SEED = 2**32 - 1
"""NumPy takes none beyond it."""


def check_number(
    name: str,
    value: float,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
) -> None:
    """Refuse a number that is not finite or lies outside of what can be meant.

    Args:
        name: the argument, as the user knows it.
        value: what was given.
        above: it has to be larger.
        least: it may be equal or larger.
        below: it has to be smaller.
        most: it may be equal or smaller.

    Raises:
        UserError: it is not within.
    """
    if isinstance(value, bool) or not (math.isfinite(value) and above < value < below and least <= value <= most):
        wanted = in_words("a number", above=above, least=least, below=below, most=most)
        raise UserError(f"{name} must be {wanted}, but is {value}")


def in_words(
    what: str,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
) -> str:
    """`a number above 0 and at most 1`; bounds as in `check_number`."""
    bounds = {"above": above, "at least": least, "below": below, "at most": most}
    told = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if math.isfinite(bound))
    return f"{what} {told}".rstrip()


def check_counts(counts: Mapping[str, int | None], least: int = 1) -> None:
    """Refuse numbers of things that are too small; one that is None is left to its default.

    Raises:
        UserError: names the first.
    """
    for name, count in counts.items():
        if count is not None:
            check_number(name, count, least=least)


def check_numbers(name: str, values: Iterable[float], **bounds: float) -> None:
    """`check_number` for each of a list.

    Raises:
        UserError: names its place in the list, too.
    """
    for place, value in enumerate(values):
        check_number(f"{name}[{place}]", value, **bounds)


def check_validated(batches: float, interval: float) -> None:
    """Refuse a run that ends before it would be validated for the first time.

    Args:
        batches: of the whole run.
        interval: batches between two validations.

    Raises:
        UserError: it does.
    """
    if batches < interval:
        raise UserError(
            f"trainer.val_check_interval is {interval} batches, but the run ends after {batches}, so it would never be "
            "validated; lower it, or set trainer.limit_val_batches to 0 if no validation is wanted"
        )


def check_seed(name: str, seed: int) -> None:
    """Refuse what NumPy would not take as a seed.

    Raises:
        UserError: it is negative or too large.
    """
    if isinstance(seed, bool) or not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"{name} must be a whole number from 0 to {LARGEST_SEED}, but is {seed}")
