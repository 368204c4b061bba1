"""The granularities of one tile: grid shapes and token counts, coarse to fine.

Source: paper, section 3.1 (visual granularity scaler). The finest grid is halved again and again, first its width
(1x2 pooling), then its height (2x1), so 24x24 tokens give 576, 288, 144, 72 and 36 per tile.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from lit_avg.utils.arguments import check_numbers
from lit_avg.utils.errors import UserError


@dataclass(frozen=True)
class Granularities:
    """N levels of detail of one tile, named by their tokens per tile.

    Args:
        tokens: tokens per tile at each level, coarse to fine; the last one is the encoder's own square grid.
        step: how many times more tokens each level has than the one before: 2, or another power of two when
            levels are left out (36, 144, 576 is step 4).

    Raises:
        UserError: the list is empty, not coarse to fine in equal steps, or its finest grid is not a square that
            can be halved that often.
    """

    tokens: Sequence[int] = (36, 72, 144, 288, 576)
    step: int = 2

    def __post_init__(self) -> None:
        if self.step < 2 or self.step & (self.step - 1):
            raise UserError(f"step must be a power of two of at least 2, but is {self.step}")
        if not self.tokens:
            raise UserError("granularities need at least one level, for example tokens: [36, 72, 144, 288, 576]")
        fine_to_coarse = list(self.tokens)[::-1]
        check_numbers("granularities.tokens", self.tokens, least=1)
        for finer, coarser in pairwise(fine_to_coarse):
            if coarser * self.step != finer:
                verb = "halve" if self.step == 2 else f"divide by {self.step}"
                mend = "list them coarse to fine" if coarser > finer else "set `step` if levels are left out on purpose"
                raise UserError(
                    f"each granularity must {verb} the one before, but {finer} is followed by {coarser}; {mend}"
                )
        object.__setattr__(self, "tokens", tuple(self.tokens))
        side = self.side
        if side * side != self.finest:
            raise UserError(f"the finest granularity must be a square grid, but {self.finest} is not a square number")
        for tokens, (rows, columns) in zip(self.tokens, self.grids, strict=True):
            if rows * columns != tokens:
                raise UserError(f"a {side}x{side} grid cannot be halved down to {tokens} tokens; drop that level")

    @property
    def finest(self) -> int:
        """Tokens per tile of the finest level."""
        return self.tokens[-1]

    @property
    def side(self) -> int:
        """Rows, and columns, of the finest grid."""
        return int(self.finest**0.5)

    @cached_property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of each level, coarse to fine: 6x6, 12x6, 12x12, 24x12, 24x24."""
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
