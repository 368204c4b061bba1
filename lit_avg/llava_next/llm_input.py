"""Rows of text and image to the sequences the LLM reads, at a granularity chosen for each row.

Everything here is bookkeeping on integers: which embedding stands where, at which position, who sees whom, and which
tokens are answers. The embeddings themselves are gathered once, from one table (see `LlmInput.source`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lit_avg.batch import IGNORED_LABEL, IMAGE_PLACEHOLDER, PADDING, PREFIX, Batch
from lit_avg.visual_tokens.anyres import NEWLINE, VisualLayout


@dataclass
class LlmInput:
    """B rows of at most S tokens, padded on the right; A answer tokens in all."""

    source: (
        Tensor  # (B, S) row of the embedding table: newline, then text (B x T), then the visual tokens level by level
    )
    visual: Tensor  # (B, S) bool: a token of the image's sequence, its newlines included
    question: Tensor  # (B, S) as in `Batch.question`
    position_ids: Tensor  # (B, S) each question's positions go on from the prefix's end
    answer_row: Tensor  # (A,) row of each answer token
    answer_from: Tensor  # (A,) column of the token that predicts it
    answer_token: Tensor  # (A,) the token itself
    answer_question: Tensor  # (A,) the question it answers

    def attention_mask(self) -> Tensor | None:
        """(B, 1, S, S) bool, who sees whom: the prefix and one's own question, never what comes later.

        None where plain causal attention gives the same: rows of a single question, padded on the right.
        """
        first = self.question.masked_fill(self.question < 0, torch.iinfo(torch.int64).max).amin(dim=1)
        if bool((self.question.amax(dim=1) <= first).all()):
            return None
        seen = (self.question.unsqueeze(1) == self.question.unsqueeze(2)) | (self.question == PREFIX).unsqueeze(1)
        return seen.tril().unsqueeze(1)

    def split(self, tokens: int) -> list["LlmInput"]:
        """The same rows in parts of so many tokens at most, or of a single row that is longer."""
        lengths, begins, held = (self.question != PADDING).sum(dim=1).tolist(), [0], 0
        for row, length in enumerate(lengths):
            held += length
            if held > tokens and row > begins[-1]:
                begins.append(row)
                held = length
        ends = [*begins[1:], len(lengths)]
        return [self._rows(begin, end, max(lengths[begin:end])) for begin, end in zip(begins, ends, strict=True)]

    def _rows(self, begin: int, end: int, longest: int) -> "LlmInput":
        mine = (self.answer_row >= begin) & (self.answer_row < end)
        return LlmInput(
            source=self.source[begin:end, :longest],
            visual=self.visual[begin:end, :longest],
            question=self.question[begin:end, :longest],
            position_ids=self.position_ids[begin:end, :longest],
            answer_row=self.answer_row[mine] - begin,
            answer_from=self.answer_from[mine],
            answer_token=self.answer_token[mine],
            answer_question=self.answer_question[mine],
        )

    def to(self, device: torch.device) -> "LlmInput":
        """The same on another device."""
        return LlmInput(*(tensor.to(device) for tensor in vars(self).values()))


def llm_input(batch: Batch, level_of_row: Sequence[int], layout: VisualLayout) -> LlmInput:
    """Put each row's image in place of its placeholder, at the granularity chosen for the row.

    The embedding table it indexes holds the newline token, the batch's text tokens row by row, and the visual tokens
    of every tile at each level that occurs in `level_of_row`, coarse to fine.
    """
    input_ids, question, labels = batch.input_ids.cpu(), batch.question.cpu(), batch.labels.cpu()
    first_visual = _first_visual_tokens(batch, level_of_row, layout)
    images = batch.image_of_row.tolist()
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for row, level in enumerate(level_of_row):
        length = int((question[row] != PADDING).sum())
        text = 1 + row * input_ids.shape[1] + torch.arange(length)
        if images[row] < 0:
            rows.append((text, question[row, :length], labels[row, :length]))
            continue
        visual = _visual_source(batch, images[row], level, first_visual[level], layout)
        at = int((input_ids[row] == IMAGE_PLACEHOLDER).nonzero()[0])
        around = slice(None, at), slice(at + 1, length)
        rows.append(
            (
                torch.cat([text[around[0]], visual, text[around[1]]]),
                torch.cat([question[row, around[0]], torch.full_like(visual, PREFIX), question[row, around[1]]]),
                torch.cat([labels[row, around[0]], torch.full_like(visual, IGNORED_LABEL), labels[row, around[1]]]),
            )
        )
    return _padded(rows, input_ids.numel()).to(batch.input_ids.device)


def used_levels(level_of_row: Sequence[int]) -> list[int]:
    """The levels whose visual tokens the embedding table holds, coarse to fine."""
    return sorted(set(level_of_row))


def visual_token_counts(batch: Batch, layout: VisualLayout) -> Tensor:
    """(Q, N) tokens of each question's image in the LLM's sequence at each level, 0 without an image."""
    levels = range(len(layout.granularities))
    counts = [
        [layout.count(grid, (height, width), level) for level in levels]
        for grid, (height, width) in zip(batch.tile_grids, batch.image_sizes.tolist(), strict=True)
    ]
    of_image = torch.tensor([*counts, [0] * len(levels)])  # the last row stands for "no image", index -1
    return of_image[batch.image_of_question.cpu()]


def separate_questions(batch: Batch) -> Batch:
    """The same questions with a row each, so that each can have its own granularity; images stay shared."""
    rows = batch.row_of_question
    wanted = torch.arange(len(batch.keys), device=rows.device).unsqueeze(1)
    question = batch.question[rows]
    kept = (question == wanted) | (question == PREFIX)
    order = (~kept).to(torch.uint8).argsort(dim=1, stable=True)  # what is kept goes first, in its own order
    longest = int(kept.sum(dim=1).max())
    order, kept = order[:, :longest], kept.gather(1, order)[:, :longest]

    def rearranged(tensor: Tensor, filling: int) -> Tensor:
        return tensor[rows].gather(1, order).masked_fill(~kept, filling)

    return replace(
        batch,
        input_ids=rearranged(batch.input_ids, 0),
        labels=rearranged(batch.labels, IGNORED_LABEL),
        question=rearranged(batch.question, PADDING),
        instruction=rearranged(batch.instruction, False),
        image_of_row=batch.image_of_row[rows],
    )


def without_last_answers(batch: Batch) -> Batch:
    """Rows of one question each, cut before their last answer: the prompts to generate from.

    A row without any label has no answer to cut and is a prompt already.
    """
    answered = batch.labels != IGNORED_LABEL
    begins = answered & ~torch.cat([torch.zeros_like(answered[:, :1]), answered[:, :-1]], dim=1)
    columns = torch.arange(answered.shape[1], device=answered.device)
    cut = torch.where(begins, columns, -1).amax(dim=1, keepdim=True)
    padded = (columns >= cut) & (cut >= 0)
    return replace(
        batch,
        question=batch.question.masked_fill(padded, PADDING),
        labels=batch.labels.masked_fill(padded, IGNORED_LABEL),
    )


def _first_visual_tokens(batch: Batch, level_of_row: Sequence[int], layout: VisualLayout) -> dict[int, int]:
    """Row of the embedding table at which each used level's visual tokens begin."""
    begin, first = 1 + batch.input_ids.numel(), dict[int, int]()
    for level in used_levels(level_of_row):
        first[level] = begin
        begin += sum(batch.tiles) * layout.granularities.tokens[level]
    return first


def _visual_source(batch: Batch, image: int, level: int, first_visual: int, layout: VisualLayout) -> Tensor:
    """Rows of the embedding table for one image's visual sequence."""
    height, width = batch.image_sizes[image].tolist()
    tokens = layout.sequence(batch.tile_grids[image], (height, width), level)
    begin = first_visual + sum(batch.tiles[:image]) * layout.granularities.tokens[level]
    return torch.where(tokens == NEWLINE, 0, tokens + begin)


def _padded(rows: Sequence[tuple[Tensor, Tensor, Tensor]], text_tokens: int) -> LlmInput:
    """Rows of (source, question, labels) as one padded input; `text_tokens` are in the table behind the newline."""
    sources, questions, labels = zip(*rows, strict=True)
    places = [_places(question) for question in questions]
    label = pad_sequence(list(labels), batch_first=True, padding_value=IGNORED_LABEL)
    question = pad_sequence(list(questions), batch_first=True, padding_value=PADDING)
    row, column = (label != IGNORED_LABEL).nonzero(as_tuple=True)
    previous = pad_sequence([previous for _, previous in places], batch_first=True)
    source = pad_sequence(list(sources), batch_first=True)
    return LlmInput(
        source=source,
        visual=((source == 0) | (source > text_tokens)) & (question == PREFIX),
        question=question,
        position_ids=pad_sequence([position for position, _ in places], batch_first=True),
        answer_row=row,
        answer_from=previous[row, column],
        answer_token=label[row, column],
        answer_question=question[row, column],
    )


def _places(question: Tensor) -> tuple[Tensor, Tensor]:
    """Position of each token of one row, and the column of the token before it *in its own question's view*."""
    columns = torch.arange(len(question))
    prefix = int((question == PREFIX).sum())
    _, run, lengths = question.unique_consecutive(return_inverse=True, return_counts=True)
    begins = (lengths.cumsum(0) - lengths)[run]
    inside = question != PREFIX
    position = torch.where(inside, columns - begins + prefix, columns)
    previous = torch.where(inside & (columns == begins), prefix - 1, columns - 1)
    return position, previous
