"""Batches of similar length, with images or without (LLaVA's `group_by_modality_length`), no image decoded for it.

How long samples are, the headers of shards and images tell: the bytes of each record and the image's sides. They
are read once, and kept beside the shards where that can be written; those of shards from elsewhere beside what is
fetched of them. A bounded buffer of an epoch's order is sorted by length and cut into batches, and these are mixed
again: batches stay random, and padding is what a few neighbours in length differ by.
"""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.encoding.tiling import best_plane
from datamodules.shards.reader import ShardedSamples
from datamodules.shards.tar_index import Place, PlaceReader, ShardIndex, Unreadable
from lit_avg.utils.atomic_io import write_whole

BATCHES_AT_ONCE = 64
"""Batches that a buffer holds: more leave less padding, and less chance in who meets whom."""


@dataclass(frozen=True)
class Lengths:
    """How long each sample is about."""

    tokens: NDArray[np.int64]  # (samples,)
    text_only: NDArray[np.bool_]  # (samples,) it has no image


def grouped(order: NDArray[np.int64], lengths: Lengths, size: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Rearrange an epoch's order so that each `size` samples behind one another are alike.

    What does not fill a batch waits for the next buffer, whatever its length. At the epoch's end fewer than `size`
    samples of each kind are left; if they fill a batch together, it is the last one, and the only mixed one.

    Args:
        order: samples in random order.
        lengths: of all samples.
        size: samples a step on all ranks together.
        generator: mixes the batches of a buffer.

    Returns:
        As many whole batches as `order` has, one behind the other.
    """
    waiting = [order[:0], order[:0]]
    batches: list[NDArray[np.int64]] = []
    for begin in range(0, len(order), BATCHES_AT_ONCE * size):
        buffer = order[begin : begin + BATCHES_AT_ONCE * size]
        ready: list[NDArray[np.int64]] = []
        for kind, text_only in enumerate((False, True)):
            pool = np.concatenate([waiting[kind], buffer[lengths.text_only[buffer] == text_only]])
            whole = len(pool) // size * size
            waiting[kind] = pool[whole:]
            ready.append(pool[np.argsort(lengths.tokens[pool[:whole]], kind="stable")].reshape(-1, size))
        together = np.concatenate(ready)
        batches.append(together[generator.permutation(len(together))].ravel())
    rest = np.concatenate(waiting)
    return np.concatenate([*batches, rest[: len(rest) // size * size]])


def padding_share(tokens: NDArray[np.int64], order: NDArray[np.int64], batch_size: int) -> float:
    """The share of padding in batches that are filled up to their longest sample.

    Args:
        tokens: lengths of all samples.
        order: one rank's samples, batch by batch.
        batch_size: samples a batch; what fills none at the end is left out.
    """
    batches = tokens[order[: len(order) // batch_size * batch_size]].reshape(-1, batch_size)
    return 1 - float(batches.sum() / (batches.max(axis=1).sum() * batch_size))


PATCH = 14
"""Side of the encoder's patches in pixels; CLIP's and SigLIP's. Only an estimate hangs on it."""

BYTES_PER_TOKEN = 4
"""Of English text, about."""

_log = logging.getLogger(__name__)


def lengths_of(samples: ShardedSamples, tile_size: int, planes: list[tuple[int, int]], max_length: int) -> Lengths:
    """About how many tokens each sample has, its image at the finest granularity.

    Args:
        samples: the data set.
        tile_size: the encoder's native size in pixels.
        planes: (height, width) of what an image may be fitted into; none for a single view.
        max_length: longest text in tokens.
    """
    sizes = sample_sizes(samples)
    text = np.minimum(sizes[:, 0] // BYTES_PER_TOKEN, max_length)
    images, which = np.unique(sizes[:, 1:], axis=0, return_inverse=True)
    tiles = np.array([_tiles(int(height), int(width), tile_size, planes) for height, width in images])
    visual = tiles[which.reshape(-1)] * (tile_size / PATCH) ** 2
    return Lengths(text + visual.astype(np.int64), sizes[:, 1] == 0)


def lengths_of_all(
    parts: Sequence[ShardedSamples], tile_size: int, planes: list[tuple[int, int]], max_length: int
) -> Lengths:
    """Those of several data sets, one behind the other."""
    lengths = [lengths_of(part, tile_size, planes, max_length) for part in parts]
    return Lengths(
        np.concatenate([part.tokens for part in lengths]), np.concatenate([part.text_only for part in lengths])
    )


def _tiles(height: int, width: int, tile_size: int, planes: list[tuple[int, int]]) -> float:
    """How many tiles' worth of tokens an image has: the global view, and what it covers of its plane."""
    if not height:
        return 0.0
    if not planes:
        return 1.0
    plane = best_plane((height, width), planes)
    scale = min(plane[0] / height, plane[1] / width)
    return 1 + (scale * height) * (scale * width) / tile_size**2


def sample_sizes(samples: ShardedSamples) -> NDArray[np.int64]:
    """(samples, 3): bytes of the record, height and width of the image; 0 and 0 without one."""
    source = samples.source
    here = Path(source.location)
    kept = (here if here.is_dir() else source.cache.folder) / f"sizes-{samples.manifest.digest[:16]}.npy"
    if kept.is_file():
        return np.load(kept)[samples.numbers]
    _log.info("reading the sizes of %d samples in %s", samples.manifest.samples, source.location)
    of_shards: list[NDArray[np.int64]] = []
    for number in range(len(source.places)):
        with source.open(number) as file:
            of_shards.append(sizes_in_shard(file, source.index(number)))
    sizes = np.concatenate(of_shards)
    _keep(kept, sizes)
    return sizes[samples.numbers]


def sizes_in_shard(shard: BinaryIO, index: ShardIndex) -> NDArray[np.int64]:
    """The same of one shard, in the order in which its samples lie."""
    rows = [[0, 0, 0] for _ in index]
    with warnings.catch_warnings(action="ignore"):
        for row, (_, members) in zip(rows, index, strict=True):
            for extension, place in members.items():
                if extension != "json":
                    row[1:] = _sides(shard, place)
                elif not isinstance(place, Unreadable):
                    row[0] = place[1]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def _sides(shard: BinaryIO, place: Place | Unreadable) -> tuple[int, int]:
    """Height and width as the header has them; an image that is none will be told of when it is its turn."""
    if isinstance(place, Unreadable):
        return 1, 1
    try:
        with Image.open(BufferedReader(PlaceReader(shard, place))) as image:
            return image.height, image.width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 1, 1


def _keep(path: Path, sizes: NDArray[np.int64]) -> None:
    """Write the sizes whole or not at all; several ranks may do so at a time."""
    content = BytesIO()
    np.save(content, sizes)
    try:
        write_whole(path, content.getvalue())
    except OSError as error:
        _log.warning("the sizes of the samples cannot be kept beside the shards: %s", error)
