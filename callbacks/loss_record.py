"""`LossRecord`: the loss of every batch, to the last bit."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

import lightning as L
from torch import Tensor

from callbacks.run_context import run_folder
from lit_avg.utils.atomic_io import write_whole

LOSSES = "losses.csv"

_HEADER = "batch,step,loss\n"


class LossRecord(L.Callback):
    """Writes `losses.csv` into the run's directory: batch, optimiser steps by then, and the first rank's loss.

    Losses are written whenever a checkpoint is, and a run that goes on from one drops the lines behind it. So the file
    of a run that was killed and continued is the one of a run that was left alone.
    """

    def __init__(self) -> None:
        self._written = 0
        self._waiting: list[tuple[int, Tensor]] = []  # not yet brought over from the device, which would cost a wait

    def state_dict(self) -> dict[str, Any]:
        """How many losses the file has when this checkpoint is there."""
        return {"batches": self._written + len(self._waiting)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on behind them."""
        self._written = state_dict["batches"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin the file, or drop what was written after the checkpoint."""
        path = run_folder(trainer) / LOSSES
        if not trainer.is_global_zero:
            return
        kept = [_HEADER]
        if path.is_file():
            with path.open(encoding="utf-8") as file:
                kept += islice(file, 1, self._written + 1)
        write_whole(path, "".join(kept))

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Remember the batch's own loss; what is differentiated is a part of the step's."""
        if isinstance(outputs, Mapping):
            # a module that does not tell its own returns it, and Lightning divides it
            loss = outputs.get("mean_loss", outputs["loss"] * trainer.accumulate_grad_batches)
            self._waiting.append((trainer.global_step, loss.detach()))

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write what the checkpoint says is written."""
        self._write(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the rest."""
        self._write(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        numbered = enumerate(self._waiting, self._written)
        lines = [f"{number},{step},{loss.item()!r}\n" for number, (step, loss) in numbered]
        self._written += len(self._waiting)
        self._waiting.clear()
        if trainer.is_global_zero:
            with (run_folder(trainer) / LOSSES).open("a", encoding="utf-8") as file:
                file.writelines(lines)
