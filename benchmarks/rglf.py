"""Stages 3 and 4 against the authors' way. Run: python -m benchmarks.rglf --shape anchor

Each step is forward and backward, without optimizer. Losses are compared without dropout before anything is timed, the
steps of both ways are timed in turn, and the memory of each is that of a first step in a process of its own.
"""

import argparse
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from benchmarks.measure import (
    counted_gflop,
    in_fresh_process,
    machine,
    matmul_peak,
    peak_above,
    ratio,
    seconds_in_turn,
    table,
)
from benchmarks.naive import Naive
from benchmarks.necessary import necessary
from benchmarks.shapes import SHAPES, Shape, make_batch, make_model, make_stage

HEAD = ("stage", "way", "s per step", "ratio", "peak MiB", "GFLOP counted", "GFLOP/s of the necessary", "share of peak")


def steps(shape: Shape, number: int, dropout: float = 0.1) -> dict[str, Callable[[], Tensor]]:
    """One step of a stage both ways, on the same weights; each gives its loss."""
    stage, batch = make_stage(number, make_model(shape, dropout)), make_batch(shape)
    naive = Naive(stage.model)
    losses = {"ours": lambda: stage.loss(batch)["loss"], "naive": lambda: getattr(naive, f"stage{number}")(batch)}

    def step(way: str) -> Tensor:
        stage.zero_grad()
        loss = losses[way]()
        loss.backward()
        return loss.detach()

    return {"ours": lambda: step("ours"), "naive": lambda: step("naive")}


def compared(name: str, number: int, rounds: int) -> list[list[object]]:
    """Two rows of the table, naive first."""
    shape = SHAPES[name]
    losses = [step().item() for step in steps(shape, number, dropout=0.0).values()]
    if abs(losses[0] - losses[1]) > (1e-5 if shape.dtype == torch.float32 else 0.05) * abs(losses[1]):
        raise SystemExit(f"stage {number}: the losses are {losses[0]} and {losses[1]}: nothing to compare")
    ways, model = steps(shape, number), make_model(shape)
    size = (shape.tile_grid[0] * shape.vision["image_size"], shape.tile_grid[1] * shape.vision["image_size"])
    visual = [model.layout.count(shape.tile_grid, size, level) for level in range(len(model.granularities))]
    needed = necessary(shape, model, visual)
    gflop = (needed.stage3 if number == 3 else needed.stage4) / 1e9
    peak, seconds = matmul_peak(shape.dtype, shape.device), seconds_in_turn(ways, rounds)
    peak = max(peak, matmul_peak(shape.dtype, shape.device))
    rows: list[list[object]] = []
    for way in ("naive", "ours"):
        rate = gflop / median(seconds[way])
        memory = in_fresh_process("benchmarks.rglf", ["--shape", name, "--peak", f"{way} {number}"])
        times = f"{median(seconds[way]):.2f}", f"{ratio(seconds[way], seconds['naive']):.2f}"
        counted = f"{counted_gflop(ways[way]):.0f}"
        rows.append([number, way, *times, f"{memory:.0f}", counted, f"{rate:.0f}", f"{rate / peak:.0%}"])
    print(f"stage {number}: {gflop:.0f} GFLOP are necessary; matmul peak {peak:.0f} GFLOP/s", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="anchor")
    parser.add_argument("--stages", type=int, nargs="+", default=[3, 4], choices=[3, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", help="internal: the way and the stage whose peak memory is printed")
    arguments = parser.parse_args()
    if arguments.peak is not None:
        way, number = arguments.peak.split()
        step = steps(SHAPES[arguments.shape], int(number))[way]
        print(peak_above(step, SHAPES[arguments.shape].device))
        return
    print(f"{arguments.shape} on {machine(SHAPES[arguments.shape].device)}, median of {arguments.rounds} steps")
    rows = [row for number in arguments.stages for row in compared(arguments.shape, number, arguments.rounds)]
    print(table(HEAD, rows))


if __name__ == "__main__":
    main()
