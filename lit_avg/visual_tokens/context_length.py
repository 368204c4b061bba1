"""How many positions an LLM was made for, against what it is given to read.

Rotary positions can be computed for any place, so nothing fails beyond those that the LLM has learned: it only answers
worse. So this is told before training begins, and once when it happens.
"""

import logging

from torch import Tensor

from lit_avg.utils.errors import UserError
from lit_avg.visual_tokens.anyres import VisualLayout

_log = logging.getLogger(__name__)


def check_context_length(longest: int | None, layout: VisualLayout, positions: int | None) -> None:
    """Tell of sequences that may go beyond an LLM's positions.

    Args:
        longest: tokens of a question, its answer and its image at most; None if that is not known.
        layout: how images become tokens.
        positions: the LLM's `max_position_embeddings`, if it has any.

    Raises:
        UserError: every image does.
    """
    if positions is None or longest is None:
        return
    finest = layout.granularities.finest
    if finest >= positions:
        raise UserError(
            f"the LLM has {positions} positions (max_position_embeddings), which a single tile of {finest} tokens "
            "fills; choose coarser granularities, or an LLM that reads more"
        )
    if longest > positions:
        _log.warning(
            "text and image may take %d tokens, but the LLM was made for %d (max_position_embeddings), and answers "
            "worse beyond; lower the data's max_length by %d, or choose an LLM that reads more",
            longest,
            positions,
            longest - positions,
        )


class ContextLength:
    """Tells once that sequences have gone beyond an LLM's positions.

    Args:
        positions: its `max_position_embeddings`, if it has any.
    """

    def __init__(self, positions: int | None) -> None:
        self.positions = positions
        self.told = False

    def look_at(self, position_ids: Tensor) -> None:
        """See what the LLM is given, (B, S), wherever it lies: only rows that are long enough are looked into."""
        if self.told or self.positions is None or position_ids.shape[1] <= self.positions:
            return
        length = int(position_ids.max()) + 1
        if length > self.positions:
            self.told = True
            _log.warning(
                "a sequence of %d tokens goes beyond the %d positions that the LLM was made for "
                "(max_position_embeddings): its answer, and what is learned from it, are worth less; lower max_length",
                length,
                self.positions,
            )
