"""What this machine has to share among runs that go on side by side."""

import os
from pathlib import Path

from lit_avg.errors import UserError


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA numbers them; asked without loading CUDA."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu.strip() for gpu in named.split(",") if gpu.strip()]
    return sorted((path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")), key=int)


def deal(jobs: int, threads: int, gpus: list[str]) -> list[str | None]:
    """One share of the GPUs for each of `jobs` runs: several each, or, where runs outnumber them, one for several.

    Args:
        jobs: runs that go on at once.
        threads: CPU threads that each of them computes with.
        gpus: what there is to deal.

    Raises:
        UserError: the runs would fight for the machine's cores.
    """
    if jobs < 1:
        raise UserError(f"--jobs must be at least 1, but is {jobs}")
    if jobs * threads > max(cores(), threads):
        raise UserError(
            f"--jobs {jobs} with `threads: {threads}` each asks for {jobs * threads} cores, but there are {cores()}; "
            f"--jobs {max(1, cores() // threads)} shares them fairly"
        )
    if not gpus:
        return [None] * jobs
    return [",".join(gpus[slot::jobs]) or gpus[slot % len(gpus)] for slot in range(jobs)]
