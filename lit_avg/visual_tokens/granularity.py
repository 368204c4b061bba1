"""The granularities of one tile: grid shapes and token counts, coarse to fine.

Source: paper, section 3.1 (visual granularity scaler). The finest grid is halved again and again, first its width
(1x2 pooling), then its height (2x1), so 24x24 tokens give 576, 288, 144, 72 and 36 per tile. A grid with an odd side
does not halve: for SigLIP's 27x27 the levels are square grids of any size, as 3x3, 7x7, 14x14 and 27x27. Either way a
level's tokens say what its grid is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import isqrt
from typing import Self

from lit_avg.utils.arguments import check_numbers
from lit_avg.utils.errors import UserError

SQUARES = "list square grids of any size with `step: null` and `pooling: adaptive_average`"
"""The way out where a grid does not halve."""


@dataclass(frozen=True)
class Granularities:
    """N levels of detail of one tile, named by their tokens per tile.

    Args:
        tokens: tokens per tile at each level, coarse to fine; the last one is the encoder's own square grid.
        step: how many times more tokens each level has than the one before: 2, or another power of two when
            levels are left out (36, 144, 576 is step 4); None for square grids of any size (9, 49, 196, 729), which
            `pooling: adaptive_average` makes.

    Raises:
        UserError: the list is empty, not coarse to fine in equal steps, or its finest grid is not a square that
            can be halved that often; without steps, a level is not a square or not larger than the one before.
    """

    tokens: Sequence[int] = (36, 72, 144, 288, 576)
    step: int | None = 2

    def __post_init__(self) -> None:
        if self.step is not None and (self.step < 2 or self.step & (self.step - 1)):
            raise UserError(f"step must be a power of two of at least 2, or null for squares, but is {self.step}")
        if not self.tokens:
            raise UserError("granularities need at least one level, for example tokens: [36, 72, 144, 288, 576]")
        check_numbers("granularities.tokens", self.tokens, least=1)
        object.__setattr__(self, "tokens", tuple(self.tokens))
        if self.step is None:
            _check_squares(self.tokens)
        else:
            _check_steps(self.tokens, self.step)
        side = self.side
        if side * side != self.finest:
            raise UserError(f"the finest granularity must be a square grid, but {self.finest} is not a square number")
        for tokens, (rows, columns) in zip(self.tokens, self.grids, strict=True):
            if rows * columns != tokens:
                raise UserError(
                    f"a {side}x{side} grid cannot be halved down to {tokens} tokens; drop that level, or {SQUARES}"
                )

    @classmethod
    def of_tokens(cls, tokens: Sequence[int]) -> Self:
        """Levels of which nothing but their tokens is known: in equal steps where they have such, else squares."""
        steps = {finer / coarser for coarser, finer in pairwise(tokens)} or {2}
        step = int(steps.pop())
        return cls(tokens, step if not steps and step > 1 and not step & (step - 1) else None)

    @classmethod
    def of_side(cls, side: int) -> Self:
        """At most five levels of an encoder's own square grid: halves as in the paper, or squares if it does not halve.

        24x24 gives 36, 72, 144, 288 and 576 tokens; 27x27 gives 9, 49, 196 and 729, for adaptive pooling.
        """
        halvings = min(4, 2 * ((side & -side).bit_length() - 1))
        if halvings:
            return cls([side * side >> halved for halved in range(halvings, -1, -1)])
        squares = sorted({round(side / part) ** 2 for part in (8, 4, 2, 1) if side >= part})
        return cls(squares, None)

    @property
    def finest(self) -> int:
        """Tokens per tile of the finest level."""
        return self.tokens[-1]

    @property
    def side(self) -> int:
        """Rows, and columns, of the finest grid."""
        return isqrt(self.finest)

    @cached_property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of each level, coarse to fine: 6x6, 12x6, 12x12, 24x12, 24x24."""
        if self.step is None:
            return tuple((isqrt(tokens), isqrt(tokens)) for tokens in self.tokens)
        halvings = [(self.finest // tokens).bit_length() - 1 for tokens in self.tokens]
        return tuple((self.side >> (n // 2), self.side >> (n - n // 2)) for n in halvings)

    @property
    def router_slots(self) -> int:
        """Visual tokens the router reads per tile: those of all levels together."""
        return sum(self.tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def index(self, tokens: int) -> int:
        """Position of the level with so many tokens per tile.

        Raises:
            UserError: there is no such level.
        """
        if tokens not in self.tokens:
            raise UserError(f"there is no granularity of {tokens} tokens per tile, only {list(self.tokens)}")
        return list(self.tokens).index(tokens)


def _check_steps(tokens: Sequence[int], step: int) -> None:
    for finer, coarser in pairwise(tokens[::-1]):
        if coarser * step != finer:
            verb = "halve" if step == 2 else f"divide by {step}"
            mend = "set `step` if levels are left out on purpose"
            mend = "list them coarse to fine" if coarser > finer else f"{mend}, or {SQUARES}"
            raise UserError(
                f"each granularity must {verb} the one before, but {finer} is followed by {coarser}; {mend}"
            )


def _check_squares(tokens: Sequence[int]) -> None:
    for count in tokens:
        if isqrt(count) ** 2 != count:
            raise UserError(
                f"without a step each granularity is a square grid, but {count} is not a square number; "
                f"the nearest are {isqrt(count) ** 2} and {(isqrt(count) + 1) ** 2}"
            )
    for coarser, finer in pairwise(tokens):
        if coarser >= finer:
            raise UserError(f"granularities go from coarse to fine, but {coarser} is followed by {finer}")
