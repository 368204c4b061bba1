"""Jersey's splits as shards, in the form real data is packed in: `<key>.json`, `<key>.png` and a manifest.

A data set is built in a folder beside its own and renamed when it is whole, so one that is interrupted leaves nothing
that could be taken for data, and of two processes that build the same one at once either may be first.
"""

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.jersey.drawing import draw, random_scene, random_shape
from datamodules.jersey.questions import conversation
from datamodules.shards.writer import ShardWriter, write_manifest
from lit_avg.utils.atomic_io import whole_folder
from lit_avg.utils.errors import UserError
from lit_avg.utils.hashing import hash_of, hash_of_json

SPLITS = ("train", "val", "test")

SAMPLES_PER_SHARD = 500

VERSION = 3
"""Goes up when the images or the questions change, so that no old cache is taken for new data; a test sees to it."""


@dataclass(frozen=True)
class JerseySettings:
    """What decides every byte of the data set: images per split, the seed, and the generator's version."""

    train: int
    val: int
    test: int
    seed: int
    version: int = VERSION

    def __post_init__(self) -> None:
        for split in SPLITS:
            if self.images(split) < 1:
                raise UserError(f"images_{split} must be at least 1, but is {self.images(split)}")

    def images(self, split: str) -> int:
        """Images in one split."""
        return {"train": self.train, "val": self.val, "test": self.test}[split]

    @property
    def digest(self) -> str:
        """Names the folder of this data set."""
        return hash_of_json(asdict(self), 12)


def cached(settings: JerseySettings, cache: Path) -> Path:
    """The folder with the splits as subfolders, built if it is not there yet."""
    folder = cache / f"jersey-{settings.digest}"
    if folder.is_dir():
        return folder
    try:
        with whole_folder(folder) as partial:
            write(settings, partial)
    except OSError:
        if not folder.is_dir():  # else another process was faster, and its folder holds the same bytes
            raise
    return folder


def write(settings: JerseySettings, folder: Path) -> None:
    """Write all splits.

    Raises:
        RuntimeError: two images are alike, so that one might be in two splits.
    """
    seen: set[str] = set()
    for number, split in enumerate(SPLITS):
        images = [image(settings, number, one) for one in range(settings.images(split))]
        seen.update(hash_of(png) for png, _ in images)
        _write_split(folder / split, images, settings)
    if len(seen) < settings.train + settings.val + settings.test:
        raise RuntimeError("Jersey drew the same image twice: its random streams overlap")


def stream_of(settings: JerseySettings, split: int, number: int) -> np.random.Generator:
    """The random numbers of one image."""
    return np.random.default_rng((settings.seed, split, number))


def is_wide(settings: JerseySettings, split: str, number: int) -> bool:
    """Whether an image is wider than high."""
    rows, columns = random_shape(stream_of(settings, SPLITS.index(split), number))
    return columns > rows


def image(settings: JerseySettings, split: int, number: int) -> tuple[bytes, bytes]:
    """One sample as PNG and JSON, from a random stream of its own."""
    generator = stream_of(settings, split, number)
    scene = random_scene(generator)
    png = io.BytesIO()
    Image.fromarray(draw(scene, generator)).save(png, "PNG", compress_level=1)
    sample = conversation(scene, f"jersey-{settings.seed}-{SPLITS[split]}-{number}")
    return png.getvalue(), json.dumps(sample).encode()


def _write_split(folder: Path, images: list[tuple[bytes, bytes]], settings: JerseySettings) -> None:
    writer = ShardWriter(folder, shard_bytes=None, shard_samples=SAMPLES_PER_SHARD)
    for png, sample in images:
        writer.write(sample, png, "png")
    writer.close()
    write_manifest(folder, writer.state(), {"settings": asdict(settings)})
