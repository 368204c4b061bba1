"""How large samples are, for `lit-avg plan`: by the shards if they are there, or else by what is known of the data set.

Of shards, the headers tell the bytes of each record and the sides of each image. How many tokens a byte makes, how much
of the text is answers and how many questions there are is found out by rendering some of the records; where the
tokenizer cannot be had, a token is taken for `BYTES_PER_TOKEN` bytes, and half of them for answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datamodules.encoding.collate import SampleEncoder
from datamodules.encoding.tiling import Tiling, best_plane
from datamodules.loading.length_grouping import BYTES_PER_TOKEN, sample_sizes
from datamodules.shards.reader import ShardedSamples
from datamodules.shards.sample import BadSampleError
from lit_avg.data import SampleSizes
from lit_avg.utils.errors import UserError

RENDERED = 256
"""Records that are rendered to learn about all."""


@dataclass(frozen=True)
class ExpectedSamples:
    """What is taken for granted of a data set that is not there.

    Args:
        samples: how many it has; None if it might be any.
        text: tokens of text of each.
        answers: share of them that is answers.
        longest: tokens of the longest text.
    """

    samples: int | None = None
    text: int = 256
    answers: float = 0.5
    longest: int = 4096


@dataclass(frozen=True)
class _Rendered:
    """What some records have come to."""

    tokens_per_byte: float
    answers: float
    questions: float
    told_by: str


def expected_sizes(expected: ExpectedSamples, tiling: Tiling, share: float, max_length: int) -> SampleSizes:
    """Sizes of a split that has that share of a data set: every image fills the largest plane."""
    side = tiling.tile_size
    height, width = max(tiling.planes, key=lambda plane: plane[0] * plane[1], default=(side, side))
    grid = (height // side, width // side) if tiling.planes else (0, 0)
    longest = min(expected.longest, max_length)
    count = None if expected.samples is None else round(expected.samples * share)
    return SampleSizes(
        samples=count,
        text=np.array([min(expected.text, max_length)]),
        images=np.array([[height, width]]),
        tile_grids=np.array([grid]),
        answers=expected.answers,
        longest=longest,
        questions=1.0,
        told_by=f"assumed, as the shards are not here: {expected.text} tokens of text, {longest} at most, "
        f"images that fill {height} x {width}",
    )


def sizes_in_shards(
    parts: Sequence[ShardedSamples], weights: Sequence[float], encode: SampleEncoder | str, tiling: Tiling, longest: int
) -> SampleSizes:
    """Sizes of what lies there.

    Args:
        parts: data sets.
        weights: how often each comes in an epoch.
        encode: renders records; or why there is none that could.
        tiling: of images.
        longest: text in tokens, at most.
    """
    sizes = np.concatenate([sample_sizes(part) for part in parts])
    rendered = _rendered(parts, encode)
    text = np.minimum((sizes[:, 0] * rendered.tokens_per_byte).astype(np.int64), longest)
    of_samples = [len(part) * weight for part, weight in zip(parts, weights, strict=True)]
    return SampleSizes(
        samples=round(sum(of_samples)),
        text=text,
        images=sizes[:, 1:],
        tile_grids=_tile_grids(sizes[:, 1:], tiling),
        answers=rendered.answers,
        longest=int(text.max()),
        questions=rendered.questions,
        told_by=rendered.told_by,
    )


def _rendered(parts: Sequence[ShardedSamples], encode: SampleEncoder | str) -> _Rendered:
    if isinstance(encode, str):
        told_by = f"by the shards, a token of text for {BYTES_PER_TOKEN} bytes ({encode})"
        return _Rendered(1 / BYTES_PER_TOKEN, 0.5, 1.0, told_by)
    tokens, answers, questions, read = 0, 0, 0, 0
    size = 0
    for part in parts:
        sizes, step = sample_sizes(part), max(1, len(part) * len(parts) // RENDERED)
        for number in range(0, len(part), step):
            try:
                sample = part[number]
                asked = [*encode.questions(sample, sample.image is not None)]
            except BadSampleError:  # told of when it is its turn
                continue
            shared = asked[0].rendering.prefix * (len(asked) - 1)
            tokens += sum(len(one.rendering.input_ids) for one in asked) - shared
            answers += sum(int(one.rendering.answer.sum()) for one in asked)
            questions, read, size = questions + len(asked), read + 1, size + int(sizes[number, 0])
    if not size:
        return _rendered(parts, "no record could be rendered")
    return _Rendered(tokens / size, answers / tokens, questions / read, f"by the shards, {read} records rendered")


def _tile_grids(images: NDArray[np.int64], tiling: Tiling) -> NDArray[np.int64]:
    """(samples, 2) rows and columns of tiles."""
    sides, which = np.unique(images, axis=0, return_inverse=True)
    grids = [
        (0, 0) if not (height and tiling.planes) else best_plane((int(height), int(width)), tiling.planes)
        for height, width in sides
    ]
    return (np.array(grids, dtype=np.int64) // tiling.tile_size)[which.reshape(-1)]


def why_not(error: UserError) -> str:
    """Why records cannot be rendered, in a few words."""
    return str(error).partition(";")[0]
