"""How long the samples of a data set are, had without decoding a picture.

The headers of shards and pictures tell the bytes of each record and the picture's sides. They are read once, and kept
beside the shards where that can be written; those of shards from elsewhere beside what is fetched of them.
"""

import logging
import warnings
from collections.abc import Sequence
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.grouping import Lengths
from datamodules.images import best_plane
from datamodules.shard_index import Place, PlaceReader, ShardIndex, Unreadable
from datamodules.shards import ShardedSamples
from lit_avg.studies.files import write_whole

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
        planes: (height, width) of what a picture may be fitted into; none for a single view.
        max_length: longest text in tokens.
    """
    sizes = sample_sizes(samples)
    text = np.minimum(sizes[:, 0] // BYTES_PER_TOKEN, max_length)
    pictures, which = np.unique(sizes[:, 1:], axis=0, return_inverse=True)
    tiles = np.array([_tiles(int(height), int(width), tile_size, planes) for height, width in pictures])
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
    """How many tiles' worth of tokens a picture has: the global view, and what it covers of its plane."""
    if not height:
        return 0.0
    if not planes:
        return 1.0
    plane = best_plane((height, width), planes)
    scale = min(plane[0] / height, plane[1] / width)
    return 1 + (scale * height) * (scale * width) / tile_size**2


def sample_sizes(samples: ShardedSamples) -> NDArray[np.int64]:
    """(samples, 3): bytes of the record, height and width of the picture; 0 and 0 without one."""
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
    """Height and width as the header has them; a picture that is none will be told of when it is its turn."""
    if isinstance(place, Unreadable):
        return 1, 1
    try:
        with Image.open(BufferedReader(PlaceReader(shard, place))) as picture:
            return picture.height, picture.width
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
