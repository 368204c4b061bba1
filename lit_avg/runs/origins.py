"""What a run began from, found again by what it is: runs are moved, copied, and made anew under an old name.

A checkpoint keeps of the one that it began from where it lay, where that is as seen from its own run, and its SHA-256.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict

from lit_avg.result_names import RESULT
from lit_avg.runs.consolidation import weights_path
from lit_avg.runs.recorded_hashes import recorded
from lit_avg.runs.run_folder import LAST_CHECKPOINT, checkpoint_path
from lit_avg.utils.errors import UserError
from lit_avg.utils.hashing import file_sha256

ORIGIN_KEY = "lit_avg_begun_from"
"""Entry of a checkpoint with the `Origin` of its run."""


class Origin(TypedDict):
    """A checkpoint that another run began from."""

    place: str  # the run's directory or the checkpoint, absolute
    beside: str  # the same as seen from the run that began from it, so that both may move together
    sha256: str  # of the checkpoint's file


def origin_of(source: str, run: Path) -> Origin:
    """What the checkpoints of `run` keep of the one that it begins from."""
    place = os.path.abspath(source)  # noqa: PTH100  not where links lead
    sha256 = file_sha256(weights_path(source))
    return Origin(place=place, beside=os.path.relpath(place, run.absolute()), sha256=sha256)


def beside(run: Path, path: str) -> str:
    """Where a path leads that is told as seen from a run."""
    return os.path.normpath(run.absolute() / path)


def has_hash(source: str, sha256: str) -> bool:
    """Whether a run or checkpoint is the one with this hash; its run's record is believed, as reading it compares."""
    path = weights_path(source)
    return path.is_file() and sha256 in (recorded(path) or {file_sha256(path)})


def found_again(origin: Origin, run: Path) -> str | None:
    """Where a checkpoint lies now: beside the run, where it lay, or among the runs near either.

    Args:
        origin: what is looked for.
        run: the directory of the run that began from it.
    """
    likely = [beside(run, origin["beside"]), origin["place"]]
    if known := next((place for place in likely if has_hash(place, origin["sha256"])), None):
        return known
    return next(
        (str(place) for place in _runs_near(run, Path(origin["place"])) if _made(place, origin["sha256"])), None
    )


def origin_now(origin: Origin, named: str, run: Path, needed: bool) -> str | None:
    """Where to take over from again what a run began from.

    Args:
        origin: what the run's checkpoint says.
        named: what the config says, which may be where somebody else's run is by now.
        run: the run's directory.
        needed: the checkpoint leaves out parts that are there.

    Returns:
        A run directory or checkpoint; None where it is gone and not needed.

    Raises:
        UserError: the config names another one on purpose, or it is needed and not to be found.
    """
    if has_hash(named, origin["sha256"]):
        return named
    there = weights_path(named).is_file()
    if there and not _same_place(named, origin["place"]) and not _same_place(named, beside(run, origin["beside"])):
        raise UserError(
            f"this checkpoint was made with another init_from ({origin['place']} -> {named}, whose weights differ); "
            "change it back or start anew"
        )
    if (found := found_again(origin, run)) is not None or not needed:
        return found
    if there:
        return named  # written again since, perhaps with the very same parts: those are compared when they are read
    raise UserError(
        f"init_from: there is no checkpoint at {checkpoint_path(named)}, nor near {run} one with SHA-256 "
        f"{origin['sha256'][:12]}; name its folder with --model.init_args.init_from"
    )


def folder_now(origin: str, seen_from_run: str, run: Path) -> str:
    """Where a folder of pretrained weights lies now; a hub id stays what it is."""
    if not seen_from_run:
        return origin
    inside = Path(*Path(origin).parts[-2:])  # stage0-llm/llm
    places = [
        Path(beside(run, seen_from_run)),
        Path(origin),
        *(base / inside for base in (run.parent, run.parent.parent)),
    ]
    return str(next((place for place in places if place.is_dir()), origin))


def _same_place(one: str, other: str) -> bool:
    return checkpoint_path(one).resolve() == checkpoint_path(other).resolve()


def _made(run: Path, sha256: str) -> bool:
    try:
        return sha256 in recorded(run / LAST_CHECKPOINT)
    except UserError:
        return False  # a damaged result of somebody else's


def _runs_near(*places: Path) -> Iterator[Path]:
    """Finished runs that lie beside one of these, or one folder further away."""
    around: Sequence[Path] = [folder for place in places for folder in (place.parent, place.parent.parent)]
    for folder in dict.fromkeys(folder for folder in around if folder != folder.parent):
        for pattern in (RESULT, f"*/{RESULT}", f"*/*/{RESULT}"):
            yield from (path.parent for path in sorted(folder.glob(pattern)))
