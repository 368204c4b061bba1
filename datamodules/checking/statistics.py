"""What is counted of a data set: tallies of small whole numbers, so that any number of samples takes bounded memory."""

import math
from collections import Counter
from dataclasses import dataclass, field

ASPECT_STEPS = 16
"""Aspect ratios are counted in so many steps to the doubling: exact to some 4 %."""

_WIDEST = 10 * ASPECT_STEPS  # 1024 : 1


@dataclass
class Tally:
    """How often each whole number was seen."""

    counts: Counter[int] = field(default_factory=Counter[int])

    def add(self, value: int) -> None:
        """See a number once more."""
        self.counts[value] += 1

    @property
    def total(self) -> int:
        """How many numbers were seen."""
        return self.counts.total()

    @property
    def mean(self) -> float:
        """Their mean, 0 if there are none."""
        return sum(value * count for value, count in self.counts.items()) / max(self.total, 1)

    def quantile(self, share: float) -> int:
        """The smallest number that is at least as large as this share of them; 0 if there are none."""
        left = math.ceil(share * self.total)
        for value, count in sorted(self.counts.items()):
            left -= count
            if left <= 0:
                return value
        return 0


@dataclass
class Statistics:
    """Of all samples of some shards.

    Args:
        levels: granularities.
    """

    levels: int
    samples: int = 0
    text_only: int = 0
    rounds: Tally = field(default_factory=Tally)  # of a sample
    aspects: Tally = field(default_factory=Tally)  # ASPECT_STEPS * log2(width / height)
    grids: Counter[tuple[int, int]] = field(default_factory=Counter[tuple[int, int]])  # rows and columns of tiles
    answers: Tally = field(default_factory=Tally)  # lengths, each answer by itself
    lengths: Tally = field(default_factory=Tally)  # of whole conversations, an image counting as one
    too_long: int = 0  # conversations beyond the maximum length
    no_room: int = 0  # conversations whose first answer is beyond it
    visual: list[Tally] = field(init=False)  # visual tokens of an image at each granularity

    def __post_init__(self) -> None:
        self.visual = [Tally() for _ in range(self.levels)]

    def add_image(self, size: tuple[int, int], grid: tuple[int, int], tokens: list[int]) -> None:
        """Count an image.

        Args:
            size: height and width.
            grid: rows and columns of tiles beside the global view.
            tokens: at each granularity.
        """
        steps = round(ASPECT_STEPS * math.log2(size[1] / size[0]))
        self.aspects.add(max(-_WIDEST, min(_WIDEST, steps)))
        self.grids[grid] += 1
        for tally, count in zip(self.visual, tokens, strict=True):
            tally.add(count)

    def update(self, other: "Statistics") -> None:
        """Add what was counted elsewhere."""
        self.samples += other.samples
        self.text_only += other.text_only
        self.too_long += other.too_long
        self.no_room += other.no_room
        self.grids.update(other.grids)
        pairs = [(self.rounds, other.rounds), (self.aspects, other.aspects), (self.answers, other.answers)]
        pairs += [(self.lengths, other.lengths), *zip(self.visual, other.visual, strict=True)]
        for counter, other_counter in pairs:
            counter.counts.update(other_counter.counts)

    @property
    def images(self) -> int:
        """Samples with an image."""
        return self.samples - self.text_only


def aspect(steps: int) -> float:
    """Width over height, of the steps it is counted in."""
    return 2.0 ** (steps / ASPECT_STEPS)
