"""`LastCheckpoint`: one checkpoint a run, always the newest."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from callbacks.watching import validation_follows
from lit_avg.checkpoints import LAST_CHECKPOINT
from lit_avg.random_state import RANDOM_STATE_KEY, RandomState, random_states, restore


class LastCheckpoint(Checkpoint):
    """Keeps `checkpoints/last.ckpt` in the run's directory, from which the run goes on or the next stage starts.

    Lightning's ModelCheckpoint saves on a count of steps *or* after validation; a stage needs both: after validation
    because that is where the margin of `coarsest within` is fitted, and now and then so that little is lost.

    A run that is killed while one is written still has the one before. Beside what Lightning keeps, a checkpoint has
    the state of the random numbers, so that dropout goes on as it would have.

    Args:
        every_steps: optimiser steps between two savings, beside those after each validation and at the end.
    """

    def __init__(self, every_steps: int = 50) -> None:
        self.every_steps = every_steps
        self._saved_at = -1
        self._random_states: list[RandomState] = []

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the random numbers of every rank."""
        checkpoint[RANDOM_STATE_KEY] = random_states()

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember them until training begins: until then others may draw."""
        self._random_states = checkpoint.get(RANDOM_STATE_KEY, [])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go on with them; a run that was stopped early stays stopped, which Lightning forgets."""
        if self._random_states:
            restore(self._random_states, trainer.global_rank)
        stopped = [one for one in trainer.early_stopping_callbacks if _has_stopped(one)]
        trainer.should_stop = trainer.should_stop or bool(stopped)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save every so many optimiser steps, unless that is done after a validation anyway."""
        due = trainer.global_step % self.every_steps == 0 and trainer.global_step != self._saved_at
        if due and not validation_follows(trainer):
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
        trainer.strategy.barrier("LastCheckpoint")  # no rank goes on to a checkpoint that is not in its place
        self._saved_at = trainer.global_step


def _has_stopped(callback: L.Callback) -> bool:
    return isinstance(callback, EarlyStopping) and callback.stopping_reason != EarlyStoppingReason.NOT_STOPPED


def _take_place(new: Path, path: Path) -> None:
    """Put a checkpoint where the older one is.

    Lightning writes to the system's temporary folder and moves the file, which copies it bit by bit if that is
    another disk. Beside its place, a file moves in one step; a sharded strategy's folder takes two.
    """
    if path.is_dir():
        older = path.with_name(f"{path.name}.older")
        shutil.rmtree(older, ignore_errors=True)
        path.rename(older)
    new.replace(path)
