"""Whether a study's figures show the study and the results as they are now, without loading what draws them."""

from pathlib import Path

from lit_avg.studies.runs.plan import plan
from lit_avg.studies.spec.fingerprint import digest
from lit_avg.studies.spec.study import Study
from lit_avg.utils.atomic_io import write_whole, written

FIGURES = "figures"
"""Folder, inside a study's, of its figures."""

_DRAWN_FROM = ".drawn_from"


def are_fresh(study: Study) -> bool:
    """Whether there are figures, and nothing has changed since they were drawn."""
    note = study.out / FIGURES / _DRAWN_FROM
    there = note.is_file() and any(note.parent.glob("*.png"))
    return there and note.read_text(encoding="utf-8") == what_is_there(study)


def note_drawn(folder: Path, drawn_from: str) -> None:
    """Note what a folder's figures were drawn from: what was there before the first of them was."""
    write_whole(folder / _DRAWN_FROM, drawn_from)


def what_is_there(study: Study) -> str:
    """Hash of the study's files, and of the runs' identities and when each was finished."""
    runs = [[run.identity, written(run.proof)] for run in plan(study)]
    return digest([[path.read_text(encoding="utf-8") for path in study.files], runs])
