"""Peak memory of one epoch through the stream, for a small and a large data set of tiny images.

    python -m benchmarks.stream_memory

Each size runs in a process of its own with two workers; the largest resident set of it and of its workers is told.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage

import numpy as np
from PIL import Image

from datamodules.llava_shards import LLaVAShards
from tests.drawn import raw_shards


def drawn(samples: int) -> Iterator[tuple[bytes, bytes | None]]:
    """So many samples, every fifth without an image."""
    draw = np.random.default_rng(0)
    for number in range(samples):
        file = io.BytesIO()
        Image.fromarray(draw.integers(0, 255, (8, 8, 3), np.uint8)).save(file, "PNG")
        mark = "<image>\n" if number % 5 else ""
        turns = [
            {"from": "human", "value": f"{mark}What is number {number}?"},
            {"from": "gpt", "value": "yes " * (1 + number % 30)},
        ]
        yield json.dumps({"conversations": turns}).encode(), file.getvalue() if mark else None


def stream(folder: Path) -> None:
    """One epoch; prints what it took."""
    data = LLaVAShards(
        train=str(folder),
        tokenizer="jersey",
        batch_size=32,
        tile_size=8,
        grid_pinpoints=None,
        system_prompt=None,
        workers=2,
        group_by_length=True,
    )
    begin = time.perf_counter()
    samples = sum(len(batch.keys) for batch in data.train_dataloader())
    seconds = time.perf_counter() - begin
    own, worker = (getrusage(who).ru_maxrss / 1024 for who in (RUSAGE_SELF, RUSAGE_CHILDREN))
    print(
        f"{samples:7d} samples  main {own:6.0f} MB  largest worker {worker:6.0f} MB  {samples / seconds:6.0f} samples/s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="stream these shards, and nothing else")
    parser.add_argument("--samples", type=int, nargs="+", default=[20_000, 200_000])
    arguments = parser.parse_args()
    if arguments.folder is not None:
        stream(arguments.folder)
        return
    for samples in arguments.samples:
        with tempfile.TemporaryDirectory() as folder:
            shards = raw_shards(Path(folder) / "shards", drawn(samples), 4_000_000)
            command = [sys.executable, "-m", "benchmarks.stream_memory", "--folder", str(shards)]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
