"""The batches of stage 0, which makes stand-ins for a pretrained vision encoder and a pretrained LLM."""

from dataclasses import dataclass

from torch import Tensor

from lit_avg.batch import Batch

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
    """Questions on pictures whose visual tokens are spelled in words: each is a weighted sum of word embeddings."""

    text: Batch  # with an image for every row, and no pixels
    words: Tensor  # (tiles, P, W) int64: token ids, row by row of the finest grid
    weights: Tensor  # (tiles, P, W) float32: what each word counts; 0 for filling
    newline: int  # token id whose embedding ends each row of a plane of tiles
