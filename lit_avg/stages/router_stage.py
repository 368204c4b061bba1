"""What the stages that train a router share: everything else frozen, and every policy compared."""

import os
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_avg.batch import Batch
from lit_avg.evaluation.calibration import fit_delta
from lit_avg.llava_next.exact_buffers import ExactBuffers
from lit_avg.routing.policies import Policy, all_policies
from lit_avg.stages.base import Stage
from lit_avg.stages.trained_parts import Part
from lit_avg.utils.arguments import check_numbers
from lit_avg.utils.errors import UserError


class RouterStage(ExactBuffers, Stage):
    """Trains the router alone and fits the margin of `coarsest within` at each validation.

    Args:
        margins: further margins, in nats, that a test tries, each as a policy of its own.
        **kwargs: of `Stage`.

    Raises:
        UserError: a margin is negative, no number, or there twice.
    """

    trains: ClassVar[tuple[Part, ...]] = ("router",)
    starts_from: ClassVar[tuple[str, ...]] = ("MultiGranularityTuning",)
    exact: ClassVar[tuple[str, ...]] = ("delta",)
    delta: Tensor

    def __init__(self, *args: Any, margins: Sequence[float] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_numbers("margins", margins, least=0)
        if len({f"{margin:g}" for margin in margins}) < len(margins):
            raise UserError(f"margins: {list(margins)} has one twice, or two that tables would show as one")
        self.margins = tuple(margins)
        self._has_seen_images = False
        self.register_buffer("delta", torch.tensor(0.0, dtype=torch.double))

    def default_policies(self) -> list[Policy]:
        """Router, fixed levels, random (by the run's seed), oracle, coarsest within the fitted margin and others."""
        seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))  # where `seed_everything` leaves it
        return all_policies(self.granularities, self.delta.item(), seed, self.margins)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """As in `Stage`; notes whether there was anything to choose for."""
        self._has_seen_images |= bool(batch.tile_grids)
        return super().training_step(batch, batch_idx)

    def on_train_end(self) -> None:
        """As in `Stage`; say so if nothing was learned."""
        super().on_train_end()
        learned = self.trainer.strategy.reduce_boolean_decision(self._has_seen_images, all=False)
        if not learned and self.trainer.is_global_zero:
            warnings.warn(
                "no question had an image, in all batches since this run was started or went on: the router chooses "
                "for images alone and has learned nothing from them",
                stacklevel=2,
            )

    def on_validation_epoch_end(self) -> None:
        """Log, then fit the margin on what validation found; it is saved with the checkpoint."""
        super().on_validation_epoch_end()
        if self.outcomes is not None and not self.trainer.sanity_checking:
            self.delta.fill_(fit_delta(self.outcomes))
