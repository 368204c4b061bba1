"""What the stages that train a router share: everything else frozen, and every policy compared."""

import os
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lit_avg.calibration import fit_delta
from lit_avg.model import AvgLlava
from lit_avg.optim import Optimization
from lit_avg.policies import Policy, all_policies
from lit_avg.stages.base import Part, Stage


class RouterStage(Stage):
    """Trains the router alone and fits the margin of `coarsest within` at each validation. Arguments as in `Stage`."""

    trains: ClassVar[tuple[Part, ...]] = ("router",)
    starts_from: ClassVar[tuple[str, ...]] = ("MultiGranularityTuning",)
    delta: Tensor

    def __init__(
        self,
        model: Callable[[], AvgLlava],
        optimization: Optimization,
        init_from: str | None = None,
        frozen: Sequence[Part] = (),
    ) -> None:
        super().__init__(model, optimization, init_from, frozen)
        self.register_buffer("delta", torch.tensor(0.0, dtype=torch.double))

    @property
    def policies(self) -> dict[str, Policy]:
        """Router, each fixed level, random (with the run's own seed), oracle and coarsest within the fitted margin."""
        seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))  # where `seed_everything` leaves it
        return all_policies(self.granularities, self.delta.item(), seed)

    def on_validation_epoch_end(self) -> None:
        """Log, then fit the margin on what validation found; it is saved with the checkpoint."""
        super().on_validation_epoch_end()
        if self.outcomes is not None and not self.trainer.sanity_checking:
            self.delta.fill_(fit_delta(self.outcomes))
