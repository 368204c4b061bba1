"""The memory of a node beside its devices."""

from lit_avg.planning.plan import GIB, Fit, Plan

PROCESS = 4 * GIB
"""Of each process: Python, torch and CUDA's libraries."""

WORKER = GIB // 2
"""Of each process that reads and decodes; `benchmarks/README.md` has 0.42 GiB for the largest."""

WAITING = 2
"""Batches that each of those keeps ready, torch's default."""


def host_memory(plan: Plan, fit: Fit, workers: int) -> int:
    """Bytes of a node: its processes, batches that wait, what is offloaded, and the largest tensor while it is loaded.

    Args:
        plan: of the run.
        fit: what each device holds.
        workers: of each process.
    """
    side = plan.work.tile_side
    pixels = 3 * side * side * int(plan.work.tiles.max()) * fit.micro_batch
    own = PROCESS + fit.kept.host + workers * (WORKER + WAITING * pixels)
    return own * plan.machines.devices
