"""`DataCounts`: what a run was shown."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import lightning as L
from torch import Tensor

from callbacks.run_context import logged_step
from callbacks.watcher import Watcher


@runtime_checkable
class CountsSamples(Protocol):
    """A loader that counts."""

    seen: dict[str, int]
    """Samples that all ranks have been shown, by data set."""

    @property
    def replaced(self) -> int:
        """Different samples that turned out to be no good."""
        ...


class DataCounts(Watcher):
    """Logs `data/seen/<data set>` and `data/replaced`, of loaders that count them."""

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log every `log_every_n_steps` batches."""
        loader = trainer.train_dataloader
        if not isinstance(loader, CountsSamples) or (batch_idx + 1) % trainer.log_every_n_steps:  # pyright: ignore[reportAttributeAccessIssue]  set in a connector
            return
        counts = {f"data/seen/{name}": float(count) for name, count in loader.seen.items()}
        for logger in trainer.loggers:
            logger.log_metrics({**counts, "data/replaced": float(loader.replaced)}, logged_step(trainer))
