"""What this machine has to share among runs that go on side by side."""

import os
from pathlib import Path

from lit_avg.utils.errors import UserError


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA numbers them; asked without loading CUDA."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu.strip() for gpu in named.split(",") if gpu.strip()]
    return sorted((path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")), key=int)


def assign_gpus(jobs: int, gpus: list[str]) -> list[str | None]:
    """One share of the GPUs for each of `jobs` runs: several each, or, where runs outnumber them, one for several.

    Args:
        jobs: runs that go on at once.
        gpus: what there is to deal.

    Raises:
        UserError: there would be no run at all.
    """
    if jobs < 1:
        raise UserError(f"--jobs must be at least 1, but is {jobs}")
    if not gpus:
        return [None] * jobs
    return [",".join(gpus[slot::jobs]) or gpus[slot % len(gpus)] for slot in range(jobs)]


def warn_oversubscribed(jobs: int, threads: int) -> list[str]:
    """What to tell of runs that will have to fight for the cores; nothing where there are enough.

    The threads of a run are part of what decides its result, so they are not cut to fit.
    """
    if jobs * threads <= cores():
        return []
    fair = max(1, cores() // threads)
    return [f"{jobs} runs of {threads} thread(s) share {cores()} core(s); --jobs {fair} would not crowd them"]
