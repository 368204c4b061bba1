"""A run's folder as a fit that begins anew finds it: free, or with a run in it that is neither lost nor mixed with.

A folder is one run's. What has weights or results is moved aside as a whole, and only if that was asked for; of an
attempt that came to no checkpoint the curves and losses go into a folder of their own.
"""

import logging
import os
import re
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lit_avg.result_names import RESULT
from lit_avg.runs.sharded_checkpoint import is_folder, is_whole
from lit_avg.utils.atomic_io import OLDER, free_name, move, older_than
from lit_avg.utils.errors import UserError
from lit_avg.utils.locks import BusyError, locked, owner_of

_log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
"""Where a run has its weights, which with its result are what would be missed."""

LAST_CHECKPOINT = Path(CHECKPOINTS) / "last.ckpt"
"""Where a run directory keeps the newest checkpoint."""

_CURVES = re.compile(r"events\.out\.tfevents\..*|losses\.csv|selection\.csv|bad_samples.*\.jsonl")
"""Files that two runs in one folder would both write into."""


PARTIAL = ".partial"
"""How the name of a checkpoint ends that is being written."""


def checkpoint_path(source: str) -> Path:
    """The checkpoint that a run directory or a file name means, be it there or not: what a fit goes on from."""
    named = Path(source)
    path = named / LAST_CHECKPOINT if named.is_dir() and not is_folder(named) else named
    older = older_than(path)  # while a sharded strategy's new folder takes its place, or where that is torn
    return older if not is_whole(path) and is_whole(older) else path


def consolidated_path(checkpoint: Path) -> Path:
    """Where the weights of a sharded checkpoint lie in one file, once somebody has asked for them."""
    name = checkpoint.name.removesuffix(OLDER)
    return checkpoint.with_name(f"{name.removesuffix('.ckpt')}.consolidated.ckpt")


def run_of(checkpoint: Path) -> Path:
    """The directory of the run that a checkpoint belongs to."""
    return checkpoint.absolute().parents[1]


def begin_anew(run: Path, overwrite: bool, leads: bool) -> Path | None:
    """See that a fit begins in a folder that no other run uses.

    Args:
        run: the folder.
        overwrite: a run that lies there is to be moved aside.
        leads: this is the process that moves; of several that fit together only the first does.

    Returns:
        Where a run was moved to.

    Raises:
        UserError: there is a run, and nobody has said that it may be moved; or runs of others lie below it.
    """
    found = worth_keeping(run)
    if found is not None and not overwrite:
        raise UserError(
            f"{run} holds {found}; --overwrite moves it aside and begins anew, --resume auto goes on with it, "
            "--trainer.default_root_dir names another folder"
        )
    if not leads:
        return None
    if found is None:
        _set_attempt_aside(run)
        return None
    moved = move_aside(run)
    print(f"{run} held {found}; it is now {moved}", flush=True)
    return moved


def worth_keeping(run: Path) -> str | None:
    """What of an earlier run lies in a folder, in words; None if nothing would be missed."""
    if (run / RESULT).exists():
        return f"a finished run ({RESULT})"
    weights = (run / CHECKPOINTS).iterdir() if (run / CHECKPOINTS).is_dir() else ()
    if any(not path.name.endswith(PARTIAL) for path in weights):
        return f"a run that did not come to its end ({CHECKPOINTS})"
    return None


def move_aside(run: Path) -> Path:
    """Rename a run's folder to a free name beside it; where that is.

    Raises:
        UserError: it holds other runs, or cannot be renamed.
    """
    place = run.resolve()  # what a link leads to, so that the link stays
    if others := list(_runs_below(place)):
        raise UserError(f"{run} holds another run, {others[0]}; name a folder of its own by --trainer.default_root_dir")
    free = free_name(place.with_name(f"{place.name}-replaced"))
    try:
        move(place, free)
    except OSError as error:
        raise UserError(f"{run} cannot be moved to {free} ({error.strerror}); move it yourself") from error
    place.mkdir()  # also where a link leads
    return free


def put_back(run: Path, moved: Path) -> None:
    """Bring back what was moved aside for a fit that came to nothing, if it came to nothing."""
    place = run.resolve()
    if worth_keeping(place) is not None:
        return
    attempt = free_name(place.with_name(f"{place.name}-attempt"))
    move(place, attempt)
    move(moved, place)
    move(attempt, free_name(place / "attempt"))
    print(f"{run} is what it was before", flush=True)


@contextmanager
def fitting(run: Path) -> Generator[None]:
    """Hold a run's folder against other fits, where its file system has locks and a lock may lie beside the folder.

    Raises:
        UserError: another process is at work in it.
    """
    with ExitStack() as held:
        try:
            held.enter_context(locked(run))
        except BusyError as error:
            owner = owner_of(run)
            who = f" (process {owner.pid} on {owner.host})" if owner else ""
            raise UserError(f"{run} is being fitted by another process{who}; wait for it, or name another") from error
        except (UserError, OSError):
            _log.debug("%s is fitted without a lock", run)
        yield


def _set_attempt_aside(run: Path) -> None:
    curves = [path for path in run.iterdir() if _CURVES.fullmatch(path.name)] if run.is_dir() else []
    if not curves:
        return
    folder = free_name(run / "attempt")
    folder.mkdir()
    for path in curves:
        move(path, folder / path.name)


def _runs_below(run: Path) -> Iterator[Path]:
    """Folders of other runs; `attempt-…` and what a callback writes are none."""
    for folder, below, files in os.walk(run):
        if Path(folder) != run and (RESULT in files or CHECKPOINTS in below):
            yield Path(folder)
