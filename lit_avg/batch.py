"""`Batch`: the contract between a datamodule and a stage.

Three things are counted apart, because they come in different numbers:

- **images** (I): each cut into tiles, the global view first; the tiles of all images lie behind one another;
- **rows** (B): token sequences for the LLM. A row shows at most one image; several rows may show the same one;
- **questions** (Q): what is answered, judged and routed. A row holds one dialogue as one question, or several
  independent questions behind one visual prefix: these see the prefix and themselves, never each other.

`PatchBatch` and `SymbolBatch` are those of the toy pretraining that comes before stage 1 on a laptop.
"""

from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

IMAGE_PLACEHOLDER = -200
"""Stands in `Batch.input_ids` where a row's image goes, whatever the tokenizer calls it (as in LLaVA)."""

IGNORED_LABEL = -100
"""Label of a token that is not an answer token."""

PREFIX = -1
"""Value of `Batch.question` for tokens that every question of the row sees: all up to and including the image."""

PADDING = -2
"""Value of `Batch.question` for padding, on the right."""


@dataclass
class Batch:
    """Images, rows and questions of one step. Shapes are in the comments; integers are int64.

    From a loader to the device images travel as bytes, (sum of tiles, S, S, 3) uint8 in the place of `pixel_values`.
    """

    input_ids: Tensor  # (B, T) token ids, IMAGE_PLACEHOLDER at most once a row
    labels: Tensor  # (B, T) the token itself where it is an answer token (end of answer included), else IGNORED_LABEL
    question: Tensor  # (B, T) index into the Q questions of the batch, or PREFIX, or PADDING
    instruction: Tensor  # (B, T) bool: text of the user's turns, what the instruction filter may choose from
    image_of_row: Tensor  # (B,) index into the I images, -1 for a text-only row
    pixel_values: Tensor  # (sum of tiles, 3, S, S) float32, global view first, then row by row
    tile_grids: list[tuple[int, int]]  # I pairs: rows and columns of tiles, (0, 0) for the global view alone
    image_sizes: Tensor  # (I, 2) height and width of the original image in pixels
    keys: list[str]  # Q names, unique in the data set: the sample's key, and "/i" for the i-th of several questions
    kinds: list[str]  # Q question kinds, "all" where the data set has none
    answers: list[str]  # Q answers in plain text
    sources: list[str] = field(default_factory=list[str])  # Q names of what each was taken from, or none at all
    image_hashes: list[str] = field(default_factory=list[str])  # I, equal for one image in two samples; or none at all
    repeated: list[bool] = field(default_factory=list[bool])  # Q times whether it was shown before, or none at all

    @property
    def counted(self) -> list[int]:
        """The questions that are not shown only for every rank to have equally many."""
        return [question for question in range(len(self.keys)) if not (self.repeated and self.repeated[question])]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The same batch with its tensors on `device` (Lightning calls this)."""
        moved = {
            one.name: value.to(device, non_blocking=non_blocking)
            for one in fields(self)
            if isinstance(value := getattr(self, one.name), Tensor)
        }
        return replace(self, **moved)

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory (the data loader calls this)."""
        pinned = {
            one.name: value.pin_memory() for one in fields(self) if isinstance(value := getattr(self, one.name), Tensor)
        }
        return replace(self, **pinned)

    @property
    def tiles(self) -> list[int]:
        """How many of `pixel_values` belong to each of the I images: the global view and its grid of tiles."""
        return [1 + rows * columns for rows, columns in self.tile_grids]

    @property
    def row_of_question(self) -> Tensor:
        """(Q,) the row in which each question stands."""
        rows, columns = (self.question >= 0).nonzero(as_tuple=True)
        row_of_question = torch.zeros(len(self.keys), dtype=torch.long, device=self.question.device)
        row_of_question[self.question[rows, columns]] = rows
        return row_of_question

    @property
    def image_of_question(self) -> Tensor:
        """(Q,) the image each question is about, -1 for none."""
        return self.image_of_row[self.row_of_question]

    @property
    def image_names(self) -> list[str]:
        """Q names of what each question is about, equal for all questions on one image.

        An image is known by its hash, or where the data has none by the first question on it; a question without an
        image by itself.
        """
        images = self.image_of_question.tolist()
        first = dict(reversed([*zip(images, self.keys, strict=True)]))
        names = dict(enumerate(self.image_hashes)) if self.image_hashes else first
        return [key if image < 0 else names[image] for image, key in zip(images, self.keys, strict=True)]


NO_DIGIT = 10
"""Label of a patch that shows no digit."""

UNLABELLED = -100
"""Label of a patch that is not asked about."""


@dataclass
class PatchBatch:
    """V views (tiles and global views) of P patches, row by row, with what each patch shows."""

    pixel_values: Tensor  # (V, 3, S, S) float32
    tens: Tensor  # (V, P) int64: tens digit, or NO_DIGIT
    units: Tensor  # (V, P) int64: units digit, or NO_DIGIT
    jersey: Tensor  # (V, P) int64: 1 on a jersey, 0 beside it
    colour: Tensor  # (V, P) int64: colour of jersey or crowd, UNLABELLED on boards and in the padding
    brightness: Tensor  # (V, P) float32: of the crowd, medium on what stands in it; NaN in the padding
    global_view: Tensor  # (V,) int64: 1 for a global view, 0 for a tile


@dataclass
class SymbolBatch:
    """Questions on images whose visual tokens are spelled in words: each is a weighted sum of word embeddings."""

    text: Batch  # with an image for every row, and no pixels
    words: Tensor  # (tiles, P, W) int64: token ids, row by row of the finest grid
    weights: Tensor  # (tiles, P, W) float32: what each word counts; 0 for filling
    newline: int  # token id whose embedding ends each row of a plane of tiles
