"""The instruction filter: which k instruction tokens the router hears, and from which it chooses.

Source: paper, section 3.2 (k = 32). An instruction token scores its mean cosine similarity with the visual tokens of
the global view at the finest granularity. The mean of cosines is the cosine's dot product with the mean of the
normalised visual tokens, at a fraction of the work.

The paper says "instruction". Ours are the texts of the question's own user turns. The release takes every token that is
not a label; when it evaluates there are no labels, and what it takes is the prompt, earlier answers included. It also
lets tokens that are no instruction fill the slots that are left over.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_avg.batch import IGNORED_LABEL, IMAGE_PLACEHOLDER, PADDING, Batch
from lit_avg.llava_next.llm_input import separate_questions, without_last_answers
from lit_avg.semantics import EmptySlots, Heard
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


@dataclass
class Candidates:
    """T places a question: the row's text, its padding, and last an empty place where a row's image was."""

    input_ids: Tensor  # (Q, T) token ids
    empty: Tensor  # (Q, T) bool: no token at all, its embedding is zero
    heard: Tensor  # (Q, T) bool: the filter may choose it


def instruction_candidates(batch: Batch, instruction: Heard, training: bool) -> Candidates:
    """The candidates of each question of a batch.

    Args:
        batch: any; its questions are separated here.
        instruction: which tokens may be heard.
        training: whether the last answer is there to learn from, or still to be given. Only `all but labels` asks.
    """
    batch = separate_questions(batch)
    if instruction == "user turns":
        heard = batch.instruction & (batch.question >= 0)
    elif training:
        heard = (batch.labels == IGNORED_LABEL) & (batch.question != PADDING)
    else:
        batch = separate_questions(without_last_answers(batch))
        heard = batch.question != PADDING
    image = batch.input_ids == IMAGE_PLACEHOLDER
    order = image.to(torch.uint8).argsort(dim=1, stable=True)  # the image goes last, the others close up
    return Candidates(batch.input_ids.gather(1, order), image.gather(1, order), (heard & ~image).gather(1, order))
