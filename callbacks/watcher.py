"""`Watcher`: a callback that only looks on, and whose failure is no reason to lose the run that it looks at.

`DrawingWatcher`: a watcher whose images TensorBoard alone can show.
"""

import logging
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from lit_avg.stages.base import Stage
from lit_avg.utils.errors import UserError

ERRORS = "watcher-errors.log"
"""File in the run's directory that keeps the tracebacks."""

_log = logging.getLogger(__name__)


class Watcher(L.Callback):
    """A callback whose outputs no result depends on.

    Where one of its hooks fails, that is told once, in one line, with the traceback in `watcher-errors.log`; from then
    on it is off, and the run goes on. What is the user's to mend ends the run as ever, and so does lack of memory.
    """

    off = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Guard the hooks that a watcher has."""
        super().__init_subclass__(**kwargs)
        for name, hook in list(vars(cls).items()):
            if name in HOOKS:
                setattr(cls, name, _guarded(hook))


HOOKS = {name for name in vars(L.Callback) if name.startswith("on_") or name in ("setup", "teardown")}
"""Of a callback: all that Lightning calls with the trainer."""


def _guarded(hook: Callable[..., None]) -> Callable[..., None]:
    @wraps(hook)
    def guarded(self: Watcher, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        if self.off:
            return
        try:
            hook(self, trainer, *args, **kwargs)
        except (UserError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever it is: the run has nothing to do with it
            self.off = True
            _tell(type(self).__name__, hook.__name__, error, Path(trainer.default_root_dir) / ERRORS)

    return guarded


def _tell(watcher: str, hook: str, error: Exception, log: Path) -> None:
    """One line for people, and the traceback where it can be looked up."""
    told = f"{watcher}.{hook}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    _log.warning("%s; training goes on without it, see %s", told, log)
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{told}\n{''.join(traceback.format_exception(error))}\n")
    except OSError as full:
        _log.warning("%s cannot be written: %s", log, full)


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
