"""How far is the pipeline from what cannot be left out? Run: python -m benchmarks.data

The floor reads the same tar files, decodes their images with Pillow and resizes them as tiling must, and does nothing
else; the pipeline also parses, tokenizes, cuts, collates and hands batches over. Both are run in turn with one thread
each, the pipeline also with one and two workers, whose start is in their time; processor time, which other programs
disturb less, is told beside. Normalising is part of the training step, as it is done on its device; what it takes here
is told with the other steps. Resuming is timed to the first batch, at the beginning and far inside.
"""

import argparse
import io
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from datamodules.encoding.tiling import LLAVA_NEXT_PLANES, best_plane
from datamodules.llava_shards import LLaVAShards
from datamodules.loading.loader import ResumableLoader
from datamodules.packing.pack import PackJob, pack
from datamodules.packing.roots import ImageRoot
from datamodules.shards.tar_index import read_place

SIDE = 336
DISTINCT = 160
SIZES = ((640, 480), (480, 640), (500, 375), (640, 427))
ANSWER = "The image shows a crowd in front of a wall, and one of the players wears the number forty-two. " * 2


def photograph(number: int) -> bytes:
    """Something as smooth and as rough as a photograph, as a JPEG file."""
    generator = np.random.default_rng(number)
    width, height = SIZES[number % len(SIZES)]
    smooth = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((width, height), 3)
    rough = np.asarray(smooth, dtype=np.int16) + generator.integers(-12, 13, (height, width, 3))
    file = io.BytesIO()
    Image.fromarray(rough.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def make_shards(folder: Path, samples: int, distinct: int, shard_bytes: int) -> Path:
    """Samples with an image and two rounds each; `distinct` images take turns."""
    images = folder / "images"
    images.mkdir(parents=True)
    for number in range(distinct):
        (images / f"{number}.jpg").write_bytes(photograph(number))
    turns = ("human", "<image>\nWhat is in image {}?"), ("gpt", ANSWER), ("human", "Why?"), ("gpt", "It is so: {}.")
    with (folder / "said.jsonl").open("w", encoding="utf-8") as file:
        for number in range(samples):
            said = [{"from": speaker, "value": text.format(number)} for speaker, text in turns]
            record = {"id": str(number), "image": f"{number % distinct}.jpg", "conversations": said}
            file.write(json.dumps(record) + "\n")
    pack(PackJob((folder / "said.jsonl",), (ImageRoot(images),), shard_bytes=shard_bytes), folder / "shards")
    return folder / "shards"


def data(shards: Path, batch_size: int, workers: int) -> LLaVAShards:
    return LLaVAShards(
        str(shards),
        tokenizer="jersey",
        batch_size=batch_size,
        tile_size=SIDE,
        grid_pinpoints=LLAVA_NEXT_PLANES,
        workers=workers,
    )


def floor(module: LLaVAShards) -> int:
    """Read, decode and resize every image; how many there were."""
    samples = module.train_dataloader().samples.parts[0]
    count = 0
    for shard in range(len(samples.manifest.shards)):
        with samples.source.open(shard) as file:
            for _, members in samples.source.index(shard):
                for extension, place in members.items():
                    assert isinstance(place, tuple)
                    content = read_place(file, place)
                    if extension != "json":
                        resize(Image.open(io.BytesIO(content)).convert("RGB"))
                        count += 1
    return count


def resize(image: Image.Image) -> None:
    """The two resizes of LLaVA-NeXT: the global view, and the image fitted into its plane."""
    image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    height, width = best_plane((image.height, image.width), [(down, across) for down, across in LLAVA_NEXT_PLANES])
    scale = min(width / image.width, height / image.height)
    image.resize((math.ceil(image.width * scale), math.ceil(image.height * scale)), Image.Resampling.BICUBIC)


def stream_through(module: LLaVAShards) -> int:
    """Every batch of an epoch; how many samples they had."""
    return sum(len(batch.keys) for batch in module.train_dataloader())


def rate(work: Callable[[], int], clock: Callable[[], float] = time.perf_counter) -> float:
    """Samples per second."""
    begin = clock()
    return work() / (clock() - begin)


def stage_seconds(module: LLaVAShards, samples: int) -> dict[str, float]:
    """Milliseconds of each step of the pipeline, per sample."""
    source, encode, tiling = module.train_dataloader().samples.parts[0], module.encoder, module.tiling
    steps: dict[str, float] = {}

    @contextmanager
    def timed(step: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        steps[step] = steps.get(step, 0.0) + (time.perf_counter() - begin) * 1e3 / samples

    for number in range(samples):
        with timed("read and parse"):
            sample = source[number]
        with timed("tokenize"):
            encode.renderer(sample.turns, has_image=True)
        with timed("decode"):
            image = Image.open(io.BytesIO(sample.image or b"")).convert("RGB")
        with timed("resize alone"):
            resize(image)
        with timed("tile (with its resizes)"):
            tiled = tiling(image)
        with timed("collate"):
            shades = torch.cat([torch.from_numpy(tiled.shades)])
        with timed("normalise"):
            module.normalise(shades)
    return steps


def first_batch(stream: ResumableLoader, yielded: int) -> float:
    """Seconds to the first batch when so many were seen before."""
    stream.load_state_dict(stream.state_dict() | {"yielded": yielded})
    begin = time.perf_counter()
    next(iter(stream))
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip-samples", type=int, default=3000, help="size of the set that is resumed in")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        shards = make_shards(Path(folder) / "speed", arguments.samples, DISTINCT, 2**22)
        print(f"{arguments.samples} samples, tiles of {SIDE} pixels, batches of 4; load {os.getloadavg()[0]:.1f}\n")
        compare(shards, arguments.rounds)
        resume(Path(folder) / "large", arguments.skip_samples)


def compare(shards: Path, rounds: int) -> None:
    """Print the rates and their ratios."""
    none, one, two = (data(shards, 4, workers) for workers in (0, 1, 2))
    works: dict[str, Callable[[], int]] = {
        "floor": lambda: floor(none),
        "pipeline, no worker": lambda: stream_through(none),
        "pipeline, 1 worker": lambda: stream_through(one),
        "pipeline, 2 workers": lambda: stream_through(two),
    }
    stream_through(none)  # what is read once: files, tokenizer, indexes
    measured = [{name: rate(work) for name, work in works.items()} for _ in range(rounds)]
    print("| | samples/s | of the floor |\n|---|---|---|")
    for name in works:
        share = statistics.median(row[name] / row["floor"] for row in measured)
        print(f"| {name} | {statistics.median(row[name] for row in measured):.1f} | {share:.0%} |")
    ratio = statistics.median(row["pipeline, 2 workers"] / row["pipeline, 1 worker"] for row in measured)
    alone, floors = (rate(works[name], time.process_time) for name in ("pipeline, no worker", "floor"))
    print(f"\nby processor time, no worker: {alone / floors:.0%} of the floor")
    print(f"2 workers against 1: {ratio:.2f}x\n\n| step | ms a sample |\n|---|---|")
    for step, milliseconds in stage_seconds(none, len(none.train_dataloader().samples)).items():
        print(f"| {step} | {milliseconds:.2f} |")


def resume(folder: Path, samples: int) -> None:
    """Print what skipping costs in a set of many samples."""
    shards = make_shards(folder, samples, 16, 2**28)
    stream = data(shards, 4, 0).train_dataloader()
    first_batch(stream, 0)
    forget_indexes(stream)
    begin, skipped = first_batch(stream, 0), len(stream) * 9 // 10
    forget_indexes(stream)
    print(f"\nfirst batch of {samples} samples: {begin:.2f} s at the beginning, ", end="")
    print(f"{first_batch(stream, skipped):.2f} s after {skipped * 4} samples (indexes read anew in both)")


def forget_indexes(stream: ResumableLoader) -> None:
    for part in stream.samples.parts:
        part.source.indexes.clear()


if __name__ == "__main__":
    main()
