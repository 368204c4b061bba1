"""How a run is saved: whole or not at all, and at what cost, which is told and kept."""

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch

from lit_avg.result_names import SAVING
from lit_avg.runs.run_folder import LAST_CHECKPOINT, PARTIAL
from lit_avg.runs.sharded_checkpoint import Sharded, parts_of, write_index
from lit_avg.training.sharded_state import sharding
from lit_avg.utils.atomic_io import obey_umask, put_in_place, put_on_disk, removed_on_failure, write_whole


@dataclass
class Saving:
    """What saving costs a run; the first rank's clock counts for all.

    Args:
        seconds: that the last saving took.
        size: of the checkpoint, in bytes.
        step_seconds: of the longest optimiser step so far, but for the first of this process.
    """

    seconds: float = 0.0
    size: int = 0
    step_seconds: float = 0.0

    def save(self, trainer: L.Trainer) -> None:
        """Save the run as its last checkpoint, tell the first time what it cost, and keep that for a sweep."""
        began, first = time.monotonic(), not self.size
        self.size = save_last(trainer)
        self.seconds = time.monotonic() - began
        if not trainer.is_global_zero:
            return
        run = Path(trainer.default_root_dir)
        if first and trainer.progress_bar_callback is not None:
            clear = "\r\x1b[K" if sys.stdout.isatty() else ""  # of the line that shows the progress
            print(f"{clear}{run.name} · checkpoint of {in_bytes(self.size)} saved in {self.seconds:.1f} s", flush=True)
        kept = {"save": round(self.seconds, 2), "step": round(self.step_seconds, 2), "bytes": self.size}
        write_whole(run / SAVING, json.dumps(kept) + "\n")


def save_last(trainer: L.Trainer) -> int:
    """Save a run as its last checkpoint; until that is done, the one before stays where it can be found.

    Lightning writes to the system's temporary folder and moves the file, which copies it bit by bit if that is another
    disk. Beside its place, a file moves in one step. A sharded strategy's folder takes two, between which the older one
    is found by its other name: see `lit_avg.runs.run_folder.checkpoint_path`.

    Returns:
        Its size in bytes; 0 on all ranks but the first.
    """
    path, size = Path(trainer.default_root_dir) / LAST_CHECKPOINT, 0
    partial = partial_of(path)
    with removed_on_failure(partial, path):
        trainer.save_checkpoint(partial)
        strategy = sharding(trainer.strategy)
        parts = {} if strategy is None else _parts_seen_by_all(partial)
        if trainer.is_global_zero:
            put_on_disk(partial)
            if strategy is not None:
                token = os.urandom(8).hex()
                write_index(partial, Sharded(token, strategy, trainer.world_size, trainer.global_step, parts))
            obey_umask(partial)
    if trainer.is_global_zero:
        size = sum(file.stat().st_size for file in [partial, *partial.rglob("*")] if file.is_file())
        put_in_place(partial, path)
    trainer.strategy.barrier("LastCheckpoint")  # no rank goes on to a checkpoint that is not in its place
    return size


def _parts_seen_by_all(folder: Path) -> dict[str, int]:
    """The size of each part: a file system of many machines may show what another has written only later."""
    seen = [dict[str, int]()] * torch.distributed.get_world_size()
    torch.distributed.barrier()  # all have written theirs
    torch.distributed.all_gather_object(seen, parts_of(folder))
    return {name: max(one.get(name, 0) for one in seen) for name in sorted({name for one in seen for name in one})}


def partial_of(path: Path) -> Path:
    """Where a checkpoint lies while it is being written."""
    return path.with_name(f"{path.name}{PARTIAL}")


def in_bytes(size: float) -> str:
    """1.2 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
