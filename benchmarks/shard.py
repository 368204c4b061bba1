"""How fast is `lit-avg shard` against plain `tar` of the same files, and with two processes against one?

Run: python -m benchmarks.shard

Photo-like JPEGs are drawn into a temporary folder. `tar` copies them, which is the floor: it looks at nothing. Packing
decodes each image, checks each conversation, and hashes all that it writes. The ways are run in turn, several rounds;
that both packings give the same bytes is checked before anything is told.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.packing.pack import PackJob, pack
from datamodules.packing.roots import ImageRoot
from datamodules.shards.manifest import read_manifest

WIDTH, HEIGHT = 640, 480

DISTINCT = 500  # drawing takes longer than packing: the others are copies


def draw_photos(folder: Path, count: int) -> int:
    """JPEGs of coarse and fine noise, about as hard to decode as photos; says how many bytes they have."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    for number in range(min(count, DISTINCT)):
        coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), np.uint8)).resize((WIDTH, HEIGHT))
        pixels = np.asarray(coarse) + generator.normal(0, 8, (HEIGHT, WIDTH, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=85)
    for number in range(DISTINCT, count):
        shutil.copyfile(folder / f"{number % DISTINCT}.jpg", folder / f"{number}.jpg")
    return sum(path.stat().st_size for path in folder.iterdir())


def write_annotations(path: Path, count: int) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "Noise, fine and coarse."}]
    path.write_text(
        json.dumps([{"id": n, "image": f"{n}.jpg", "conversations": turns} for n in range(count)]), encoding="utf-8"
    )


def seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        megabytes = draw_photos(folder / "images", arguments.images) / 1e6
        write_annotations(folder / "it.json", arguments.images)
        job = PackJob((folder / "it.json",), (ImageRoot(folder / "images"),))
        times: list[tuple[float, float, float]] = []
        for number in range(arguments.rounds):
            tar = ["tar", "-cf", str(folder / f"plain-{number}.tar"), "-C", str(folder), "images"]
            copied = seconds(lambda tar=tar: subprocess.run(tar, check=True))
            outs = {workers: folder / f"out-{number}-{workers}" for workers in (1, 2)}
            one, two = (seconds(lambda w=workers, out=out: pack(job, out, w)) for workers, out in outs.items())
            if read_manifest(outs[1]).digest != read_manifest(outs[2]).digest:
                raise SystemExit("one and two workers gave different bytes: nothing to compare")
            times.append((copied, one, two))
    for name, values in zip(("plain tar", "1 worker ", "2 workers"), zip(*times, strict=True), strict=True):
        print(f"{name} {megabytes / statistics.median(values):7.1f} MB/s (median of {arguments.rounds})")
    print(f"two workers against one   {statistics.median(one / two for _, one, two in times):.2f}")
    print(f"two workers against `tar` {statistics.median(copied / two for copied, _, two in times):.2f}")


if __name__ == "__main__":
    main()
