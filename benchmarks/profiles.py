"""Where the time of a step goes, both ways, by torch's profiler. Run: python -m benchmarks.profiles

One step of each stage and way, after one that is not counted; seconds of CPU (or of the GPU) inside each kind of
operation itself, without what it calls.
"""

import argparse
from collections import defaultdict

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import machine, table
from benchmarks.rglf import steps
from benchmarks.shapes import SHAPES

KINDS = {
    "matrix products": ("addmm", "mm", "bmm", "baddbmm", "mkldnn", "convolution"),
    "attention": ("_scaled_dot_product",),
    "norms and losses": ("native_layer_norm", "_log_softmax", "_softmax", "nll_loss", "rsqrt", "mean", "pow"),
    "copies": ("copy_", "cat", "index", "gather", "clone", "fill_", "zero_"),
    "activations": ("silu", "gelu", "relu", "threshold", "sigmoid", "clamp_min"),
}
"""What belongs together, by the beginning of torch's names, behind `aten::`."""


def kind_of(name: str) -> str:
    """The kind of an operation."""
    own = name.removeprefix("aten::")
    return next((kind for kind, begins in KINDS.items() if own.startswith(begins)), "everything else")


def seconds_by_kind(shape: str, stage: int, way: str) -> dict[str, float]:
    """Seconds of one step of a stage in each kind of operation."""
    step, cuda = steps(SHAPES[shape], stage)[way], SHAPES[shape].device == "cuda"
    step()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as profiled:
        step()
    seconds = defaultdict[str, float](float)
    for event in profiled.key_averages():
        own = event.self_device_time_total if cuda else event.self_cpu_time_total
        seconds[kind_of(event.key)] += own / 1e6
    return dict(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="anchor")
    arguments = parser.parse_args()
    print(f"{arguments.shape} on {machine(SHAPES[arguments.shape].device)}")
    ways = [(stage, way) for stage in (3, 4) for way in ("naive", "ours")]
    columns = [seconds_by_kind(arguments.shape, stage, way) for stage, way in ways]
    kinds = [*KINDS, "everything else"]
    rows = [[kind, *(f"{column.get(kind, 0.0):.2f}" for column in columns)] for kind in kinds]
    rows.append(["all", *(f"{sum(column.values()):.2f}" for column in columns)])
    print(table(("seconds in", *(f"stage {stage}, {way}" for stage, way in ways)), rows))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
