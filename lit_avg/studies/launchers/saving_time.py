"""Whether a job is told in time that it must make room: a run ends its step and saves itself first.

How long that takes, runs have measured and left in their folders.
"""

import math
from pathlib import Path

from lit_avg.result_names import SAVING
from lit_avg.studies.spec.study import Study
from lit_avg.utils.errors import UserError
from lit_avg.utils.json_files import read_entries


def warn_told_too_late(study: Study) -> list[str]:
    """A line if a run of the study has taken longer for a step and a saving than `slurm.signal` leaves it."""
    taken = {path.parent: seconds for path in study.out.glob(f"seed-*/**/{SAVING}") if (seconds := _seconds(path))}
    longest = max(taken, key=lambda run: sum(taken[run]), default=None)
    if longest is None or sum(taken[longest]) <= study.slurm.signal:
        return []
    step, save = taken[longest]
    return [
        f"{study.path}: slurm.signal tells a job {study.slurm.signal} s before its limit to make room, but "
        f"{longest.relative_to(study.out)} took {step:g} s for a step and {save:g} s to save itself, and what is not "
        f"saved by then is lost; set signal to {math.ceil(2 * (step + save))}"
    ]


def _seconds(path: Path) -> tuple[float, float] | None:
    """Of a step and of saving; None where that cannot be read, which only costs a warning."""
    try:
        kept = read_entries(path, "", ("step", "save"))
        return float(kept["step"]), float(kept["save"])
    except (UserError, TypeError, ValueError):
        return None
