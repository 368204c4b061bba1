"""Batches of similar length, with images or without (LLaVA's `group_by_modality_length`).

A bounded buffer of an epoch's order is sorted by length and cut into batches, and these are mixed again: batches stay
random, and padding is what a few neighbours in length differ by.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BATCHES_AT_ONCE = 64
"""Batches that a buffer holds: more leave less padding, and less chance in who meets whom."""


@dataclass(frozen=True)
class Lengths:
    """How long each sample is about."""

    tokens: NDArray[np.int64]  # (samples,)
    text_only: NDArray[np.bool_]  # (samples,) it has no image


def grouped(order: NDArray[np.int64], lengths: Lengths, size: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Rearrange an epoch's order so that each `size` samples behind one another are alike.

    What does not fill a batch waits for the next buffer, whatever its length. At the epoch's end fewer than `size`
    samples of each kind are left; if they fill a batch together, it is the last one, and the only mixed one.

    Args:
        order: samples in random order.
        lengths: of all samples.
        size: samples a step on all ranks together.
        generator: mixes the batches of a buffer.

    Returns:
        As many whole batches as `order` has, one behind the other.
    """
    waiting = [order[:0], order[:0]]
    batches: list[NDArray[np.int64]] = []
    for begin in range(0, len(order), BATCHES_AT_ONCE * size):
        buffer = order[begin : begin + BATCHES_AT_ONCE * size]
        ready: list[NDArray[np.int64]] = []
        for kind, text_only in enumerate((False, True)):
            pool = np.concatenate([waiting[kind], buffer[lengths.text_only[buffer] == text_only]])
            whole = len(pool) // size * size
            waiting[kind] = pool[whole:]
            ready.append(pool[np.argsort(lengths.tokens[pool[:whole]], kind="stable")].reshape(-1, size))
        together = np.concatenate(ready)
        batches.append(together[generator.permutation(len(together))].ravel())
    rest = np.concatenate(waiting)
    return np.concatenate([*batches, rest[: len(rest) // size * size]])


def padding_share(tokens: NDArray[np.int64], order: NDArray[np.int64], batch_size: int) -> float:
    """The share of padding in batches that are filled up to their longest sample.

    Args:
        tokens: lengths of all samples.
        order: one rank's samples, batch by batch.
        batch_size: samples a batch; what fills none at the end is left out.
    """
    batches = tokens[order[: len(order) // batch_size * batch_size]].reshape(-1, batch_size)
    return 1 - float(batches.sum() / (batches.max(axis=1).sum() * batch_size))
