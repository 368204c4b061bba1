"""When a run may be saved, and where it stands then: the moments from which it can go on bit by bit.

Such a moment lies behind a whole optimiser step (gradients that are still being accumulated are in no checkpoint) and
behind the validation that is due there (who goes on from before it is never validated there). At an epoch's last batch
it comes when the epoch is over, for some callbacks judge an epoch only then.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, TypedDict, cast

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

PLACE_KEY = "place"
"""Entry of a checkpoint: where the run stands."""


class Place(TypedDict):
    """Where a run stands."""

    epoch: int  # epochs that are done
    batches: int  # batches of the next one that are done; none between two epochs
    all_batches: int  # batches of all epochs
    settled: bool  # no gradient is being accumulated and no validation is due, so that training can go on from here


class SettledSteps(Checkpoint):
    """Calls `settled` whenever a run may be saved. Being a `Checkpoint`, it comes after all that is none."""

    def __init__(self) -> None:
        self._step = -1
        self.whole = True  # whether the last batch ended an optimiser step

    @abstractmethod
    def settled(self, trainer: L.Trainer) -> None:
        """A step is whole, and nothing is due."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note how many steps there were."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """The usual moment."""
        self.whole = trainer.global_step != self._step
        if self.whole and not validation_follows(trainer) and not is_epoch_over(trainer):
            self.settled(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The moment after a validation."""
        if is_validating_fit(trainer) and self.whole and not is_epoch_over(trainer):
            self.settled(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The moment after an epoch; a fit may also end in the midst of one."""
        if self.whole and is_epoch_over(trainer):
            self.settled(trainer)


def is_validating_fit(trainer: L.Trainer) -> bool:
    """Whether a validation is part of a fit, and no mere sanity check."""
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking


def is_epoch_over(trainer: L.Trainer) -> bool:
    """Whether the last training batch was its epoch's last."""
    loop = trainer.fit_loop
    return loop.batch_idx + 1 >= trainer.num_training_batches or loop.epoch_loop.batch_progress.is_last_batch


def validation_follows(trainer: L.Trainer) -> bool:
    """Whether the training batch that just ended is one after which Lightning validates, however that is counted."""
    loop = trainer.fit_loop
    # only Lightning knows all its ways to count: batches of an epoch or of all, shares, epochs, time, an early stop
    return loop.epoch_loop._should_check_val_fx(cast(Any, loop._data_fetcher))  # pyright: ignore[reportPrivateUsage]


def place_of(trainer: L.Trainer, whole: bool) -> Place:
    """Where a fit stands.

    Args:
        trainer: asked in a training or validation hook of a callback, or at the end of training.
        whole: the last batch ended an optimiser step.
    """
    loop = trainer.fit_loop
    batches = cast(Any, loop.epoch_loop.batch_progress).current
    in_hook = batches.completed < batches.processed  # of the batch, before validation
    return Place(
        epoch=loop.epoch_progress.current.ready - 1 + is_epoch_over(trainer),
        batches=0 if is_epoch_over(trainer) else loop.batch_idx + 1,
        all_batches=loop.total_batch_idx + 1,
        settled=whole and not (in_hook and validation_follows(trainer)),
    )


def set_place(loops: dict[str, Any], place: Place) -> None:
    """Have a checkpoint's loops begin where the run stands.

    What Lightning keeps depends on the hook that saved, and not all of that it takes up again: after an epoch's last
    batch it trains one more, and a fit that ends in the midst of an epoch counts as one that has ended it. Two forms
    it does take up: an epoch begun, with its batches done to the last counter, and none begun.
    """
    done, begun = place["epoch"], place["epoch"] + (place["batches"] > 0)
    epochs = {"ready": begun, "started": begun, "processed": done, "completed": done}
    counters = ("ready", "started", "processed", "completed")
    fit = loops["fit_loop"]
    fit["epoch_progress"] = {"total": epochs, "current": dict(epochs)}
    fit["epoch_loop.batch_progress"] = {
        "total": dict.fromkeys(counters, place["all_batches"]),
        "current": dict.fromkeys(counters, place["batches"]),
        "is_last_batch": False,
    }
