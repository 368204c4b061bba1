"""`LastCheckpoint`: one checkpoint a run, always the newest."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lit_avg.checkpoints import LAST_CHECKPOINT


class LastCheckpoint(Checkpoint):
    """Keeps `checkpoints/last.ckpt` in the run's directory, from which the run goes on or the next stage starts.

    Lightning's ModelCheckpoint saves on a count of steps *or* after validation; a stage needs both: after validation
    because that is where the margin of `coarsest within` is fitted, and now and then so that little is lost.

    Args:
        every_steps: optimiser steps between two savings, beside those after each validation and at the end.
    """

    def __init__(self, every_steps: int = 50) -> None:
        self.every_steps = every_steps
        self._saved_at = -1

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save every so many optimiser steps."""
        if trainer.global_step % self.every_steps == 0 and trainer.global_step != self._saved_at:
            self._save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save what validation has fitted, too."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the end of a run that does not end with a validation."""
        if trainer.global_step != self._saved_at:
            self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        if trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]  Lightning sets it in a connector
            return
        path = Path(trainer.default_root_dir) / LAST_CHECKPOINT
        partial = path.with_name(f"{path.name}.partial")
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            _take_place(partial, path)
        trainer.strategy.barrier("the newest checkpoint is in its place")
        self._saved_at = trainer.global_step


def _take_place(partial: Path, path: Path) -> None:
    """Let a whole checkpoint replace the one before, which until then is whole as well.

    Lightning moves a finished file from the system's temporary folder, and between two file systems a move is a copy,
    which can be cut off. DeepSpeed's checkpoints are folders.
    """
    if path.is_dir():
        shutil.rmtree(path)
    partial.replace(path)
