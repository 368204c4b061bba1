"""`LastCheckpoint`: one checkpoint a run, always the newest, from which it goes on bit by bit."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from callbacks.checkpointing.resumption import BeforeStop, Resumption, before_stop, metrics_of
from callbacks.checkpointing.saving import Saving, partial_of
from callbacks.checkpointing.settled_steps import (
    PLACE_KEY,
    SettledSteps,
    is_epoch_over,
    is_validating_fit,
    place_of,
    set_place,
    validation_follows,
)
from lit_avg.runs.run_folder import LAST_CHECKPOINT
from lit_avg.runs.sharded_checkpoint import is_whole
from lit_avg.training.sharded_state import sharding
from lit_avg.utils.arguments import check_counts, check_number
from lit_avg.utils.atomic_io import bring_back, older_than, remove
from lit_avg.utils.distributed import RANDOM_STATE_KEY, random_states

LARGEST_SHARE = 1 / 20
"""Of the time that saving by the clock may take."""

METRICS_KEY, BEFORE_STOP_KEY = "callback_metrics", "before_stop"
"""Entries of a checkpoint: see `callbacks.checkpointing.resumption`."""


class LastCheckpoint(SettledSteps):
    """Keeps `checkpoints/last.ckpt` in the run's directory, from which the run goes on or the next stage starts.

    Lightning's ModelCheckpoint saves on a count of steps *or* after validation; a stage needs both: after validation
    because that is where the margin of `coarsest within` is fitted, and now and then so that little is lost. A save
    that is due in the midst of an accumulated step waits for its end, and so does a stop (early, or by `max_time`).

    A run that is killed while one is written still has the one before. Beside what Lightning keeps, a checkpoint has
    the state of the random numbers, so that dropout goes on as it would have, and the place where the run stands.

    Args:
        every_minutes: between two savings, beside those after each validation and at the end; more where saving would
            take more than a twentieth of the time. The first rank's clock counts. None for no such savings.
        every_steps: optimiser steps between two savings; None for no such savings.
    """

    def __init__(self, every_minutes: float | None = 5.0, every_steps: int | None = None) -> None:
        super().__init__()
        check_counts({"every_steps": every_steps})
        if every_minutes is not None:
            check_number("every_minutes", every_minutes, above=0)
        self.every_minutes, self.every_steps = every_minutes, every_steps
        self.saving = Saving()
        self._saved_at = self._step_began = time.monotonic()
        self._steps = 0  # that this process has done
        self._resumption: Resumption | None = None
        self._wanted = False  # a save is due
        self._unsaved = False
        self._stops = False  # a stop waits for the end of its step
        self._before: BeforeStop | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remove what a kill left of a checkpoint that was being written or replaced."""
        path = Path(trainer.default_root_dir) / LAST_CHECKPOINT
        if stage == TrainerFn.FITTING and trainer.is_global_zero:
            remove(partial_of(path))
            if is_whole(path):
                remove(older_than(path))

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the random numbers of every rank, and the place."""
        checkpoint[RANDOM_STATE_KEY] = random_states()
        checkpoint[METRICS_KEY] = metrics_of(trainer)
        checkpoint[BEFORE_STOP_KEY] = self._before
        if trainer.state.fn == TrainerFn.FITTING:
            checkpoint[PLACE_KEY] = place_of(trainer, self.whole)
            set_place(checkpoint["loops"], checkpoint[PLACE_KEY])

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember them until training begins: until then others may draw."""
        loops = checkpoint["loops"]["fit_loop"]
        self._resumption = Resumption(
            checkpoint.get(RANDOM_STATE_KEY, []),
            checkpoint.get(METRICS_KEY, {}),
            checkpoint.get(PLACE_KEY),
            checkpoint.get(BEFORE_STOP_KEY),
            loops["state_dict"].get("combined_loader", []),
        )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go on from there; a run that was stopped early stays stopped, which Lightning forgets."""
        sharding(trainer.strategy)  # refuse one before it is too late
        self._saved_at = time.monotonic()
        trainer.should_stop |= any(_has_stopped(one) for one in trainer.early_stopping_callbacks)
        if self._resumption is not None and not trainer.should_stop:
            self._resumption.take_up(trainer)
        path = Path(trainer.default_root_dir) / LAST_CHECKPOINT
        if trainer.is_global_zero and not is_whole(path):
            bring_back(path)  # all ranks have read it by now

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """See that a run that goes on does so with the very batch it would have had."""
        if self.whole:
            self._step_began = time.monotonic()
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._unsaved = True
        if self._resumption is not None:
            self._resumption.check(trainer)
            self._resumption = None

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save every so many optimiser steps, unless that is done after a validation anyway."""
        stepped = trainer.global_step != self._step
        self._hold_stop(trainer, stepped)
        if stepped:
            self._note_step()
            self._wanted |= self.every_steps is not None and trainer.global_step % self.every_steps == 0
            self._wanted |= self._is_time(trainer)
        if trainer.should_stop and not any(_has_stopped(one) for one in trainer.early_stopping_callbacks):
            self._note_stop(trainer)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save what validation has fitted, too."""
        if is_validating_fit(trainer):
            self._hold_stop(trainer, self.whole)
            self._wanted = self._unsaved = True
        super().on_validation_end(trainer, pl_module)

    def settled(self, trainer: L.Trainer) -> None:
        """Save if it is time."""
        if self._wanted:
            self._save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the end of a run that does not end with a validation."""
        if self._unsaved:
            self._save(trainer)

    def _hold_stop(self, trainer: L.Trainer, whole: bool) -> None:
        """Put a stop off to the end of the step: what has been accumulated of it would be lost."""
        self._stops |= trainer.should_stop
        trainer.should_stop = self._stops and (whole or is_epoch_over(trainer))

    def _note_stop(self, trainer: L.Trainer) -> None:
        """Lightning validates a run that is stopped; if that is not due anyway, remember what it changes."""
        trainer.should_stop = False
        if not validation_follows(trainer):
            self._before = before_stop(trainer)
        trainer.should_stop = True

    def _note_step(self) -> None:
        """Keep the longest; the first of a process has to start much else."""
        self._steps += 1
        if self._steps > 1:
            self.saving.step_seconds = max(self.saving.step_seconds, time.monotonic() - self._step_began)

    def _is_time(self, trainer: L.Trainer) -> bool:
        """Whether so many minutes are over, on all ranks alike."""
        if self.every_minutes is None:
            return False
        wait = max(self.every_minutes * 60, self.saving.seconds / LARGEST_SHARE)
        is_over = trainer.is_global_zero and time.monotonic() - self._saved_at >= wait
        return trainer.strategy.reduce_boolean_decision(is_over, all=False)

    def _save(self, trainer: L.Trainer) -> None:
        if not trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]  Lightning sets it in a connector
            self.saving.save(trainer)
        self._saved_at = time.monotonic()
        self._wanted = self._unsaved = False


def _has_stopped(callback: L.Callback) -> bool:
    return isinstance(callback, EarlyStopping) and callback.stopping_reason != EarlyStoppingReason.NOT_STOPPED
