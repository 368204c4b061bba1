"""`DrawingWatcher`: a watcher whose images TensorBoard alone can show."""

import logging
from typing import ClassVar

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.watcher import Watcher
from lit_avg.stages.base import Stage

_log = logging.getLogger(__name__)


class DrawingWatcher(Watcher):
    """A watcher that draws. Where a run has no TensorBoard, the first of them says so for all, when the run begins."""

    drawn: ClassVar[str]
    """What it draws, in words."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Say what is not drawn, and why."""
        drawing = [callback for callback in _callbacks(trainer) if isinstance(callback, DrawingWatcher)]
        if (
            self is drawing[0]
            and isinstance(pl_module, Stage)
            and stage in ("fit", "validate", "test")
            and trainer.is_global_zero
            and not trainer.fast_dev_run  # pyright: ignore[reportAttributeAccessIssue]  Lightning sets it elsewhere
            and not any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)
        ):
            loggers = ", ".join(type(logger).__name__ for logger in trainer.loggers)
            _log.warning(
                "%s are drawn for TensorBoard only; this run %s",
                " and ".join(callback.drawn for callback in drawing),
                f"logs to {loggers}" if loggers else "has no logger, so its curves are not kept either",
            )


def _callbacks(trainer: L.Trainer) -> list[L.Callback]:
    return trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]  as above
