"""What the benchmarks measure: seconds of several ways in turn, peak memory, FLOPs, the machine's matmul peak."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

MIB, GIGA = 2**20, 1e9


def synchronised() -> float:
    """Seconds of a clock, when the device has done all it was asked."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds_in_turn(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round, one way after the other; a first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            begin = synchronised()
            way()
            if number:
                seconds[name].append(synchronised() - begin)
    return seconds


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median over rounds of ours by theirs, each pair measured one after the other."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def counted_gflop(way: Callable[[], object]) -> float:
    """What torch's FlopCounterMode counts: on a CPU all matrix products, but no fused attention."""
    with FlopCounterMode(display=False) as counter:
        way()
    return counter.get_total_flops() / GIGA


def matmul_peak(dtype: torch.dtype, device: str) -> float:
    """GFLOP per second of the best of some products of square matrices."""
    side, best = 2048 if device == "cpu" else 8192, float("inf")
    one, other = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
    for _ in range(12):
        begin = synchronised()
        torch.mm(one, other)
        best = min(best, synchronised() - begin)
    return 2 * side**3 / best / GIGA


def peak_above(way: Callable[[], object], device: str) -> float:
    """MiB that a way takes at its peak, above what is there before; on a CPU only once in a process."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    before = _resident("VmRSS")
    way()
    return _resident("VmHWM") - before


def _resident(kind: str) -> float:
    """MiB of this program alone; `getrusage` would count what its parent had when it was started, too."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return int(status[kind].split()[0]) / 1024


def in_fresh_process(module: str, arguments: Sequence[str]) -> float:
    """The number that a module prints in its last line."""
    command = [sys.executable, "-m", module, *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout
    return float(output.strip().splitlines()[-1])


def machine(device: str) -> str:
    """Where this was measured, in a few words."""
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    model = next(
        (
            line
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        "CPU",
    )
    return f"{torch.get_num_threads()} threads of {model.split(':')[-1].strip()}, torch {torch.__version__}"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
