"""The instruction filter: which k instruction tokens the router hears.

Source: paper, section 3.2 (k = 32). An instruction token scores its mean cosine similarity with the visual tokens of
the global view at the finest granularity. The mean of cosines is the cosine's dot product with the mean of the
normalised visual tokens, at a fraction of the work.

The release lets tokens that are no instruction fill the slots that are left over.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_avg.semantics import EmptySlots
from lit_avg.utils.errors import UserError


@dataclass
class InstructionTokens:
    """The chosen tokens of each question.

    An empty slot holds zeros and is marked invalid: it is never attended to and never votes. Where slots are filled
    there is no empty one.
    """

    embeddings: Tensor  # (Q, k, D)
    valid: Tensor  # (Q, k) bool


class InstructionFilter(nn.Module):
    """Keeps the k instruction tokens most similar to the image, the most similar first.

    Args:
        k: slots for instruction tokens; 0 makes a router without instruction.
        empty_slots: slots that no instruction token claims are `masked`, or `filled` with whatever else there is.
    """

    def __init__(self, k: int = 32, empty_slots: EmptySlots = "masked") -> None:
        super().__init__()
        if k < 0:
            raise UserError(
                f"the instruction filter cannot keep k = {k} tokens; use 0 for a router without instruction"
            )
        self.k = k
        self.empty_slots: EmptySlots = empty_slots

    def forward(self, instruction: Tensor, valid: Tensor, global_view: Tensor) -> InstructionTokens:
        """Choose among each question's tokens.

        Args:
            instruction: token embeddings, (Q, T, D).
            valid: (Q, T) bool, True for instruction tokens.
            global_view: finest visual tokens of the global view of each question's image, (Q, V, D).
        """
        chosen = self.choose(instruction, valid, global_view)
        missing = self.k - chosen.shape[1]
        valid = F.pad(valid.gather(1, chosen), (0, missing))
        embeddings = instruction.gather(1, chosen.unsqueeze(2).expand(-1, -1, instruction.shape[2]))
        embeddings = F.pad(embeddings, (0, 0, 0, missing))
        if self.empty_slots == "filled":
            return InstructionTokens(embeddings, torch.ones_like(valid))
        return InstructionTokens(embeddings.masked_fill(~valid.unsqueeze(2), 0.0), valid)

    def choose(self, instruction: Tensor, valid: Tensor, global_view: Tensor) -> Tensor:
        """Places of the chosen tokens, (Q, min(k, T)); arguments as in `forward`. Valid ones go first."""
        similarity = self.similarity(instruction, global_view).masked_fill(~valid, -torch.inf)
        # Not a stable sort, nor topk: which excluded tokens come first, and so fill slots, is as in the release.
        return similarity.sort(dim=1, descending=True).indices[:, : self.k]

    @staticmethod
    def similarity(instruction: Tensor, global_view: Tensor) -> Tensor:
        """Mean cosine of every instruction token (Q, T, D) with the visual tokens (Q, V, D): (Q, T)."""
        direction = F.normalize(global_view, dim=2).mean(dim=1)  # (Q, D)
        return torch.einsum("qtd,qd->qt", F.normalize(instruction, dim=2), direction)
