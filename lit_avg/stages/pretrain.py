"""Stage 1: the connector learns to speak the LLM's language from captions (paper, section 3.3)."""

from typing import ClassVar

from torch import Tensor

from lit_avg.batch import Batch
from lit_avg.stages.base import Part, Stage


class Pretrain(Stage):
    """Next-token cross-entropy on the answer at the finest granularity; everything but the connector is frozen."""

    trains: ClassVar[tuple[Part, ...]] = ("connector",)
    objective = "cross-entropy of the answer tokens at the finest granularity"

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean negative log-prob of the batch's answer tokens."""
        levels = self.model.see(batch)
        return {"loss": -self.model.answer_tokens_at(batch, levels, len(levels) - 1).log_prob.mean()}
