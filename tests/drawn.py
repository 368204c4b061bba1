"""Small data sets in LLaVA's form, drawn on the spot."""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.packing.pack import PackJob, pack
from datamodules.packing.roots import ImageRoot
from datamodules.shards.writer import ShardWriter, WriterState, write_manifest

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 200)}


def image(width: int, height: int, colour: str, seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(-30, 30, (height, width, 3))
    pixels = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def conversation(number: int, colour: str | None, rounds: int = 1) -> dict[str, Any]:
    mark = "<image>\n" if colour else ""
    turns = [{"from": "human", "value": f"{mark}Which colour is it?"}, {"from": "gpt", "value": colour or "none"}]
    for extra in range(1, rounds):
        turns += [{"from": "human", "value": f"And question {extra}?"}, {"from": "gpt", "value": f"answer {extra}"}]
    record: dict[str, Any] = {"id": f"drawn-{number}", "conversations": turns}
    return record | ({"image": f"{number}.png"} if colour else {})


def draw_llava(folder: Path, samples: int = 12, rounds: int = 1, text_only_every: int = 5) -> tuple[Path, Path]:
    """Annotations and images; every so many samples one has no image."""
    images = folder / "images"
    images.mkdir(parents=True)
    records: list[dict[str, Any]] = []
    for number in range(samples):
        colour = None if text_only_every and number % text_only_every == 4 else list(COLOURS)[number % 3]
        if colour:
            size = (40 + 13 * (number % 5), 90 - 17 * (number % 4))
            (images / f"{number}.png").write_bytes(image(*size, colour, number))
        records.append(conversation(number, colour, rounds))
    annotations = folder / "drawn.json"
    annotations.write_text(json.dumps(records))
    return annotations, images


def drawn_shards(folder: Path, samples: int = 12, rounds: int = 1, shard_bytes: int = 40_000) -> Path:
    """Several shards of drawn samples."""
    annotations, images = draw_llava(folder / "raw", samples, rounds)
    pack(PackJob((annotations,), (ImageRoot(images),), shard_bytes=shard_bytes), folder / "shards")
    return folder / "shards"


def raw_shards(folder: Path, samples: Iterable[tuple[bytes, bytes | None]], shard_bytes: int = 40_000) -> Path:
    """Shards of records and PNG images as they are: packing might not let them through."""
    writer = ShardWriter(folder, shard_bytes, WriterState())
    for record, image in samples:
        writer.write(record, image, "png")
    writer.close()
    write_manifest(folder, writer.state(), {"settings": {}})
    return folder
