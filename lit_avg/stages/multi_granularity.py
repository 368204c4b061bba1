"""Stage 3: the model learns to answer from every granularity (paper, section 3.3)."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lit_avg.batch import Batch
from lit_avg.evaluation.outcomes import Outcomes
from lit_avg.feedback.lmm_feedback import levels_differ
from lit_avg.llava_next.llm_input import LlmInput, llm_input
from lit_avg.stages.base import Stage
from lit_avg.stages.trained_parts import Part
from lit_avg.training.sequential_backward import sum_with_sequential_backward
from lit_avg.utils.arguments import check_counts
from lit_avg.utils.distributed import is_sharded
from lit_avg.utils.errors import UserError


class MultiGranularityTuning(Stage):
    """The loss of stage 2 at each of the N granularities, averaged over N; the image is encoded once.

    Args:
        sequential_backward: go back through the LLM after each level, which holds the activations of one level
            instead of N, and through connector and encoder once. The gradients are the same. Not done, whatever
            this says, where parameters are sharded or float16 gradients are scaled.
        tokens_at_once: going one by one, a level whose rows have more tokens than that is taken in parts of whole
            rows, each with its own way back.
        levels_per_step: how many levels, drawn anew for each batch, a step is averaged over: an unbiased estimate of
            the loss at a part of the cost. None for all.
        **kwargs: of `Stage`.

    Raises:
        UserError: `tokens_at_once` or `levels_per_step` is less than one, or, as soon as the model is built, there are
            fewer levels.
    """

    trains: ClassVar[tuple[Part, ...]] = ("vision_encoder", "connector", "llm")
    starts_from: ClassVar[tuple[str, ...]] = ("InstructionTuning",)

    def __init__(
        self,
        *args: Any,
        sequential_backward: bool = True,
        tokens_at_once: int = 4096,
        levels_per_step: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_counts({"tokens_at_once": tokens_at_once, "levels_per_step": levels_per_step})
        self.sequential_backward = sequential_backward
        self.tokens_at_once = tokens_at_once
        self.levels_per_step = levels_per_step

    def configure_model(self) -> None:
        """As in `Stage`; only now it is known how many levels there are."""
        super().configure_model()
        levels = len(self.granularities)
        if self.levels_per_step is not None and self.levels_per_step > levels:
            raise UserError(
                f"levels_per_step is {self.levels_per_step}, but there are {levels} granularities; null takes all"
            )

    def parameters_of(self, part: Part) -> list[nn.Parameter]:
        """As in `Stage`; what the scaler learns belongs to the connector, and only here are all levels seen."""
        learned = self.model.scaler.parameters() if part == "connector" else ()
        return [*super().parameters_of(part), *learned]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean over levels of the mean negative log-prob of the answer tokens, and each level's own.

        Without any image all levels are the same, and one is computed in the stead of all.
        """
        features, levels = self.model.encode(batch), self.levels_of_step()
        differing = levels if levels_differ(self.model, batch) else levels[:1]
        times = len(levels) // len(differing)
        if self.sequential_backward and torch.is_grad_enabled() and not self._must_add_up():
            terms = [self._terms(batch, level, self.tokens_at_once) for level in differing]
            parameters = self._parameters_of_terms()
            loss, found = sum_with_sequential_backward(
                [t for of_level in terms for t in of_level], features, parameters, 1 / len(levels), times
            )
            losses = [part.sum() for part in torch.stack(found).split([len(of_level) for of_level in terms])] * times
        else:
            losses = [term(features) for level in differing for term in self._terms(batch, level, sys.maxsize)] * times
            loss = torch.stack(losses).mean()
        tokens = [self.granularities.tokens[level] for level in levels]
        return {"loss": loss, **{f"loss@{count}": value for count, value in zip(tokens, losses, strict=True)}}

    @property
    def loss_in_words(self) -> str:
        """As in `Stage`."""
        return "cross-entropy of the answer tokens, averaged over all granularities"

    def levels_of_step(self) -> list[int]:
        """The levels this step is averaged over, coarse to fine."""
        count = len(self.granularities)
        if self.levels_per_step in (None, count):
            return list(range(count))
        return sorted(torch.randperm(count)[: self.levels_per_step].tolist())

    def _terms(self, batch: Batch, level: int, tokens: int) -> list[Callable[[Tensor], Tensor]]:
        """What gives the loss at a level from the features, in parts of so many tokens, to be added up."""
        rows = llm_input(batch, [level] * len(batch.input_ids), self.model.layout)
        answers = len(rows.answer_token)
        return [partial(self._share_of_loss, batch, level, part, answers) for part in rows.split(tokens)]

    def _share_of_loss(self, batch: Batch, level: int, rows: LlmInput, answers: int, features: Tensor) -> Tensor:
        """What some rows add to the mean over that many answer tokens."""
        levels = {level: self.model.scaler.pool(features, level)}
        embeddings = self.model.embeddings(batch, levels, [level] * len(batch.input_ids), rows)
        return -self.model.backbone.answer_tokens(embeddings, rows).log_prob.sum() / answers

    def _parameters_of_terms(self) -> list[Tensor]:
        """What is trained and comes after the features: LLM or adapter, the newline token, what the scaler learns."""
        backbone, scaler = self.model.backbone, self.model.scaler
        llm = (*backbone.parameters_of("llm"), *backbone.parameters_of("llm_adapter"))
        after = (*llm, backbone.image_newline, *scaler.parameters())
        return [parameter for parameter in after if parameter.requires_grad]

    def _must_add_up(self) -> bool:
        """See `lit_avg.training.sequential_backward` for the reasons."""
        device = self.model.backbone.image_newline.device.type
        half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
        return half or is_sharded(self.model)

    def validation_loss(self, outcomes: Outcomes) -> Tensor:
        """Mean negative log-prob of an answer over all granularities."""
        return -outcomes.feedback.mean()
