"""`Preemption`: a run that has to make room ends its step and saves itself first."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import lightning as L

from callbacks.checkpointing.saving import save_last
from callbacks.checkpointing.settled_steps import SettledSteps

SIGNAL = signal.SIGUSR2
"""What a cluster's launcher is told by that the job must end soon."""

Handler = Callable[[int, FrameType | None], Any]


class Preemption(SettledSteps):
    """Holds the launcher's answer to `SIGUSR2` back until the step is done and `checkpoints/last.ckpt` holds it.

    All processes of a run agree on the step, whichever of them got the signal. A validation that is due goes first, as
    does the rest of an accumulated step. The launcher (submitit) stays the owner of the signal and requeues the job;
    where nobody owns it, as on a laptop, this does nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self._owner: Handler | None = None
        self._asked = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stand before the owner of the signal."""
        handler = signal.getsignal(SIGNAL)
        if callable(handler):
            self._owner = handler
            signal.signal(SIGNAL, self._note)

    def settled(self, trainer: L.Trainer) -> None:
        """Save and make room if any process was asked to.

        Raises:
            KeyboardInterrupt: ends the fit; the first process is ended by the owner of the signal before.
        """
        owner = self._owner
        if owner is None or not trainer.strategy.reduce_boolean_decision(self._asked, all=False):
            return
        save_last(trainer)
        self._stand_back()
        owner(SIGNAL, None)
        raise KeyboardInterrupt

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the signal back."""
        self._stand_back()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Give the signal back."""
        self._stand_back()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def _stand_back(self) -> None:
        if self._owner is not None:
            signal.signal(SIGNAL, self._owner)
        self._owner = None
