"""Which of a study's runs have a job in SLURM's queue: `slurm/jobs.json` knows the jobs, `squeue` those that live."""

import getpass
import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from lit_avg.utils.atomic_io import write_whole
from lit_avg.utils.errors import UserError

FOLDER = "slurm"
"""Folder, inside a study's, of what SLURM and submitit write."""

JOBS = "jobs.json"


def read_jobs(out: Path) -> dict[str, str]:
    """The newest job of each run, by the run's identity."""
    path = out / FOLDER / JOBS
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(
            f"{path} cannot be read ({error}); see `squeue` for jobs that still run, and remove it"
        ) from error


def write_jobs(out: Path, new: Mapping[str, str]) -> None:
    """Note the jobs of runs."""
    write_whole(out / FOLDER / JOBS, json.dumps(read_jobs(out) | dict(new), indent=1) + "\n")


def living_jobs(out: Path) -> dict[str, str]:
    """The jobs that wait or run, by their runs' identities; none where there is no SLURM.

    Raises:
        UserError: SLURM does not answer.
    """
    jobs = read_jobs(out)
    if not jobs or shutil.which("squeue") is None:
        return {}
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--user={getpass.getuser()}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
    if done.returncode != 0:
        why = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise UserError(f"squeue does not answer: {why[-1]}")
    living = set(done.stdout.split())
    return {identity: job for identity, job in jobs.items() if job in living}


def cancel_jobs(jobs: Mapping[str, str]) -> None:
    """Take jobs back, running or not."""
    if jobs:
        subprocess.run(["scancel", *jobs.values()], check=True)
