"""What the instruction filter chooses from: the tokens of each question's row, and which of them may be heard.

The paper says "instruction". Ours are the texts of the question's own user turns. The release takes every token that is
not a label; when it evaluates there are no labels, and what it takes is the prompt, earlier answers included.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_avg.batch import IGNORED_LABEL, IMAGE_PLACEHOLDER, PADDING, Batch
from lit_avg.llava_next.llm_input import separate_questions, without_last_answers
from lit_avg.semantics import Heard


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
