"""Ablation e: the router learns from the answer loss itself, through a straight-through Gumbel-softmax (Table 4, e)."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_avg.batch import Batch
from lit_avg.llava_next.llm_input import llm_input, separate_questions
from lit_avg.stages.router_stage import RouterStage
from lit_avg.utils.arguments import check_number


class GumbelRouterTuning(RouterStage):
    """No LMM feedback: the LLM sees the level that was drawn, and its loss flows back through the draw.

    Args:
        temperature: of the Gumbel-softmax.
        **kwargs: of `RouterStage`.
    """

    def __init__(self, *args: Any, temperature: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_number("temperature", temperature, above=0)
        self.temperature = temperature

    @property
    def loss_in_words(self) -> str:
        """As in `Stage`."""
        return "cross-entropy of the answer tokens at a granularity drawn by straight-through Gumbel-softmax"

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean negative log-prob of the answer tokens, each question at its own drawn level."""
        batch = separate_questions(batch)
        with torch.no_grad():
            levels = self.model.encode_levels(batch)
        logits = self.model.route(batch, levels).float()
        drawn = F.gumbel_softmax(logits, self.temperature, hard=True)  # (Q, N) one-hot, soft in the backward pass
        level_of_row = drawn.argmax(dim=1).tolist()
        rows = llm_input(batch, level_of_row, self.model.layout)
        embeddings = self.model.embeddings(batch, levels, level_of_row, rows)
        # The weight is 1; multiplying by it is what lets the LLM's gradient reach the router.
        weight = drawn.amax(dim=1).to(embeddings.dtype).view(-1, 1, 1)
        embeddings = torch.where(rows.visual.unsqueeze(2), embeddings * weight, embeddings)
        return {"loss": -self.model.backbone.answer_tokens(embeddings, rows).log_prob.mean()}
