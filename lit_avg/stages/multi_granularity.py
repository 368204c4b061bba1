"""Stage 3: the model learns to answer from every granularity (paper, section 3.3)."""

from typing import ClassVar

import torch
from torch import Tensor

from lit_avg.batch import Batch
from lit_avg.outcomes import Outcomes
from lit_avg.stages.base import Part, Stage


class MultiGranularityTuning(Stage):
    """The loss of stage 2 at each of the N granularities, averaged over N; the picture is encoded once."""

    trains: ClassVar[tuple[Part, ...]] = ("vision_encoder", "connector", "llm")
    starts_from: ClassVar[tuple[str, ...]] = ("InstructionTuning",)
    objective = "cross-entropy of the answer tokens, averaged over all granularities"

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean over levels of the mean negative log-prob of the answer tokens, and each level's own."""
        levels = self.model.see(batch)
        losses = [-self.model.answer_tokens_at(batch, levels, level).log_prob.mean() for level in range(len(levels))]
        named = {f"loss@{tokens}": loss for tokens, loss in zip(self.granularities.tokens, losses, strict=True)}
        return {"loss": torch.stack(losses).mean(), **named}

    def validation_loss(self, outcomes: Outcomes) -> Tensor:
        """Mean negative log-prob of an answer over all granularities."""
        return -outcomes.feedback.mean()
