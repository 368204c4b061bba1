"""What a stage reads: the tokens and tiles of its samples, and the batch of the longest ones."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_avg.batch import IGNORED_LABEL, IMAGE_PLACEHOLDER, PADDING, PREFIX, Batch
from lit_avg.data import SampleSizes
from lit_avg.visual_tokens.anyres import VisualLayout


@dataclass(frozen=True)
class Workload:
    """Samples as a model reads them, n of them as all are."""

    sizes: SampleSizes
    visual: NDArray[np.int64]  # (n, N) tokens of the image in the LLM's sequence at each level, 0 without one
    tiles: NDArray[np.int64]  # (n,) tiles of the image, the global view included; 0 without one
    tile_side: int  # pixels

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n, N) tokens of the LLM's sequence at each level."""
        return self.visual + self.sizes.text[:, None]

    @property
    def answer_tokens(self) -> float:
        """Of a sample, on average."""
        return float(self.sizes.text.mean()) * self.sizes.answers

    @property
    def longest_sequence(self) -> int:
        """Tokens at the finest level."""
        if len(self.sizes.text) > 1:
            return int(self.lengths[:, -1].max())
        return int(self.visual[0, -1]) + self.sizes.longest

    def longest(self, count: int) -> list[int]:
        """Places of so many samples with the longest sequences, some more than once if there are too few."""
        order = np.argsort(-self.lengths[:, -1], kind="stable")
        return [int(order[place % len(order)]) for place in range(count)]


def workload(sizes: SampleSizes, layout: VisualLayout, tile_side: int) -> Workload:
    """Count the tokens of samples for a model's granularities."""
    images = np.concatenate([sizes.images, sizes.tile_grids], axis=1)
    kinds, which = np.unique(images, axis=0, return_inverse=True)
    levels = range(len(layout.granularities))
    counted = [
        [layout.count((rows, columns), (height, width), level) if height else 0 for level in levels]
        for height, width, rows, columns in kinds.tolist()
    ]
    tiles = (1 + sizes.tile_grids[:, 0] * sizes.tile_grids[:, 1]) * (sizes.images[:, 0] > 0)
    return Workload(sizes, np.array(counted, dtype=np.int64)[which.reshape(-1)], tiles, tile_side)


def longest_batch(work: Workload, count: int) -> Batch:
    """A batch of as many samples, the longest there are, each with one text as long as the longest.

    Its pixels have no content.
    """
    places, sizes = work.longest(count), work.sizes
    pictured = [place for place in places if work.tiles[place]]
    texts = [min(sizes.longest, int(sizes.text[place])) if len(sizes.text) > 1 else sizes.longest for place in places]
    questions = max(1, round(sizes.questions))
    rows = [
        _row(text, questions, sizes.answers, bool(work.tiles[place])) for text, place in zip(texts, places, strict=True)
    ]
    for number, (_, question) in enumerate(rows):
        question[question >= 0] += number * questions
    ids = torch.nn.utils.rnn.pad_sequence([row for row, _ in rows], batch_first=True)
    question = torch.nn.utils.rnn.pad_sequence([row for _, row in rows], batch_first=True, padding_value=PADDING)
    answered = ids == _ANSWER
    images = iter(range(len(pictured)))
    return Batch(
        input_ids=ids,
        labels=ids.masked_fill(~answered, IGNORED_LABEL),
        question=question,
        instruction=(question >= 0) & ~answered,
        image_of_row=torch.tensor([next(images) if work.tiles[place] else -1 for place in places]),
        pixel_values=torch.empty(
            int(sum(work.tiles[place] for place in pictured)), 3, work.tile_side, work.tile_side, device="meta"
        ),
        tile_grids=[(int(rows), int(columns)) for rows, columns in sizes.tile_grids[pictured]],
        image_sizes=torch.from_numpy(sizes.images[pictured]).view(-1, 2),
        keys=[str(number) for number in range(count * questions)],
        kinds=["all"] * count * questions,
        answers=[""] * count * questions,
    )


_WORD, _ANSWER = 1, 2
"""Token ids of a made-up text."""


def _row(text: int, questions: int, answers: float, pictured: bool) -> tuple[Tensor, Tensor]:
    """Token ids and questions (T,) of a text with as many tokens in all, and its image."""
    each = max(2, (text - 1) // questions)
    answered = min(each - 1, max(1, round(each * answers)))
    asked = torch.cat([torch.full((each - answered,), _WORD), torch.full((answered,), _ANSWER)])
    before = torch.tensor([_WORD, IMAGE_PLACEHOLDER] if pictured else [_WORD])
    place = torch.cat([torch.full_like(before, PREFIX), torch.arange(questions).repeat_interleave(each)])
    return torch.cat([before, asked.repeat(questions)]), place
