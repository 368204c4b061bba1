"""`RunProgress`: one line that says what runs, how far it is and how it goes."""

import sys
import time
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from callbacks.watcher import Watcher
from lit_avg.stages.base import Stage
from lit_avg.utils.arguments import check_counts, check_number
from lit_avg.utils.distributed import size_of


class RunProgress(Watcher, ProgressBar):
    """Shows `stage4 · RGLF · fit 37/150 · loss 0.321 · 0:12`.

    On a terminal the line is rewritten in place; elsewhere (a log file, a pipe) it is printed now and then.

    Args:
        lines: how many lines a run prints at most where they cannot be rewritten.
        every_seconds: time between two rewritings on a terminal.
    """

    def __init__(self, lines: int = 10, every_seconds: float = 0.2) -> None:
        super().__init__()
        check_counts({"lines": lines})
        check_number("every_seconds", every_seconds, least=0)
        self.lines = lines
        self.every_seconds = every_seconds
        self._shown = True
        self._live = sys.stdout.isatty()
        self._began = self._next_rewriting = 0.0

    def disable(self) -> None:
        """Show nothing (Lightning asks all ranks but the first to)."""
        self._shown = False

    def enable(self) -> None:
        """Show the line again."""
        self._shown = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say what is trained."""
        self._began = time.monotonic()
        if isinstance(pl_module, Stage):
            parts = ", ".join(part.replace("_", " ") for part in pl_module.trained_parts)
            trained = sum(size_of(p) for p in pl_module.parameters() if p.requires_grad)
            total = sum(size_of(p) for p in pl_module.parameters())
            self._print(f"{_title(trainer, pl_module)} trains {parts}: {trained:,} of {total:,} parameters")

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Show the step."""
        self._show(trainer, pl_module, "fit", trainer.global_step, int(trainer.estimated_stepping_batches))

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Show how far validation is."""
        self._evaluating(trainer, pl_module, "validate", batch_idx, sum(trainer.num_val_batches))

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._began = time.monotonic()

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Show how far the test is."""
        self._evaluating(trainer, pl_module, "test", batch_idx, sum(trainer.num_test_batches))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave a line on what validation found."""
        metrics = trainer.callback_metrics
        found = [f"{name} {metrics[name]:.3f}" for name in ("val/loss", "val/accuracy") if name in metrics]
        if found and not trainer.sanity_checking:
            when = f"step {trainer.global_step}" if trainer.state.fn == TrainerFn.FITTING else "validated"
            self._print(" · ".join([_title(trainer, pl_module), when, *found]))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the line as it is."""
        self._print("")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the line as it is."""
        self._print("")

    def _evaluating(self, trainer: L.Trainer, module: L.LightningModule, verb: str, batch: int, of: float) -> None:
        if self._live or verb == "test":  # in a log, the line that validation leaves at its end is enough
            self._show(trainer, module, verb, batch + 1, int(of))

    def _show(self, trainer: L.Trainer, module: L.LightningModule, verb: str, step: int, steps: int) -> None:
        """Show a step if its time has come: the last one always."""
        last, now = step >= steps, time.monotonic()
        due = (
            now >= self._next_rewriting if self._live else step * self.lines // steps > (step - 1) * self.lines // steps
        )
        if not (self._shown and (due or last)):
            return
        self._next_rewriting = now + self.every_seconds
        loss = trainer.callback_metrics.get("train/loss")
        parts = [_title(trainer, module), f"{verb} {step}/{steps}"]
        parts += [] if loss is None or verb != "fit" else [f"loss {loss:.3f}"]
        line = " · ".join([*parts, _clock(now - self._began)])
        if self._live:
            sys.stdout.write(f"\r\x1b[K{line}")
            sys.stdout.flush()
        else:
            self._print(line)

    def _print(self, line: str) -> None:
        """A line that stays."""
        if self._shown and (line or self._live):
            print(f"\r\x1b[K{line}" if self._live and line else line, flush=True)


def _title(trainer: L.Trainer, module: L.LightningModule) -> str:
    """The run's directory and its class."""
    return f"{trainer.default_root_dir.rstrip('/').rpartition('/')[2]} · {type(module).__name__}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
