"""`Throughput`: how fast a run trains."""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import lightning as L
from torch import Tensor

from callbacks.run_context import logged_step
from callbacks.watcher import Watcher
from lit_avg.batch import IGNORED_LABEL, PADDING, Batch


class Throughput(Watcher):
    """Logs `throughput/{questions,text_tokens,answer_tokens}_per_second` of one process.

    Time spent in validation does not count. Speeds go to the logger alone: they differ between two equal runs, and
    `result.json` must not.
    """

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()
        self._since = 0.0
        self._paused_at = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._seen.clear()
        self._since = time.perf_counter()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        self._paused_at = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let it go on."""
        self._since += time.perf_counter() - self._paused_at

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the batch; log and start anew every `log_every_n_steps` batches."""
        if not isinstance(batch, Batch):
            return
        self._seen["questions"] += len(batch.keys)
        self._seen["text_tokens"] += int((batch.question != PADDING).sum())
        self._seen["answer_tokens"] += int((batch.labels != IGNORED_LABEL).sum())
        if (batch_idx + 1) % trainer.log_every_n_steps == 0:  # pyright: ignore[reportAttributeAccessIssue]  set in a connector
            self._log(trainer)

    def _log(self, trainer: L.Trainer) -> None:
        seconds = time.perf_counter() - self._since
        speeds = {f"throughput/{name}_per_second": count / seconds for name, count in self._seen.items()}
        for logger in trainer.loggers:
            logger.log_metrics(speeds, logged_step(trainer))
        self._seen.clear()
        self._since = time.perf_counter()
