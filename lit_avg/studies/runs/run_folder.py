"""Making a run's folder its own, and the links by which its configs find the runs before it. Its lock is held."""

from pathlib import Path
from typing import Literal

from lit_avg.studies.runs.plan import PlannedRun
from lit_avg.studies.runs.run_record import Record, has_proof, own_record, unfinished_commands, write_record
from lit_avg.utils.atomic_io import free_name, link, move

REPLACED = "replaced"
"""Folder, inside a study's, of runs whose config has changed since."""

FolderState = Literal["new", "goes on", "replaces"]


def run_folder_state(run: PlannedRun) -> FolderState:
    """What a run that is not finished meets in its folder: nothing, its own interrupted attempt, or something else."""
    if own_record(run) is not None and (unfinished_commands(run) or has_proof(run)):
        return "goes on"
    return "replaces" if run.directory.exists() and not run.directory.is_symlink() else "new"


def acquire_run_folder(run: PlannedRun) -> None:
    """Make the folder this run's own, what else lies there moved aside, and put the links where they belong."""
    state = run_folder_state(run)
    if state == "replaces":
        _move_aside(run)
    if run.directory.is_symlink():  # it was another's, by an earlier version of the study
        run.directory.unlink()
    if state != "goes on":
        run.directory.mkdir(parents=True)
        write_record(run.directory, Record(run.identity))
    for place, target in run.links:
        if place.is_dir() and not place.is_symlink():  # a run of an earlier version of the study
            _set_aside(place, run.out / REPLACED / f"seed-{run.seed}-{place.parent.name}-{place.name}")
        link(place, target)


def _move_aside(run: PlannedRun) -> None:
    _set_aside(run.directory, run.out / REPLACED / f"seed-{run.seed}-{run.name.replace('/', '-')}")


def _set_aside(place: Path, there: Path) -> None:
    there.parent.mkdir(parents=True, exist_ok=True)
    move(place, free_name(there))
