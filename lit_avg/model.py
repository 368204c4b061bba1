"""`AvgLlava`: LLaVA-NeXT with a scaler, an instruction filter and a router. A plain torch module."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import TypeVar

import torch
from PIL.Image import Image
from torch import Tensor

from lit_avg.batch import PADDING, Batch
from lit_avg.llava_next.backbone import AnswerTokens, Backbone
from lit_avg.llava_next.generation import Generation
from lit_avg.llava_next.llm_input import (
    LlmInput,
    llm_input,
    separate_questions,
    used_levels,
    visual_token_counts,
    without_last_answers,
)
from lit_avg.pretrained.folder import PretrainedMixin
from lit_avg.routing.instruction_filter import InstructionFilter, instruction_candidates
from lit_avg.routing.policies import FixedPolicy, Policy, PolicyInputs, RouterPolicy, choose_levels
from lit_avg.routing.router import GranularityRouter
from lit_avg.semantics import Attention, Preset, Semantics, choices_of
from lit_avg.utils.errors import UserError
from lit_avg.utils.finite import check_scores
from lit_avg.visual_tokens.anyres import VisualLayout
from lit_avg.visual_tokens.context_length import ContextLength
from lit_avg.visual_tokens.granularity import SQUARES, Granularities
from lit_avg.visual_tokens.scaler import GranularityScaler, Pooling

Levels = Sequence[Tensor] | Mapping[int, Tensor]
"""Visual tokens (tiles, tokens of the level, D) of every level, or of those that are needed, by their places."""


Computed = TypeVar("Computed")


@dataclass
class Answers:
    """What `AvgLlava.generate` has to say to Q prompts."""

    texts: list[str]
    granularities: list[int]  # tokens per tile that each answer was given at
    probabilities: Tensor  # (Q, N) of the router, coarse to fine
    visual_tokens: list[int]  # tokens of the image in the LLM's sequence, 0 without image


class AvgLlava(PretrainedMixin):
    """Adaptive visual granularity on LLaVA-NeXT.

    Args:
        backbone: makes the backbone; called here, so that a sharded strategy can build it in place.
        granularities: the levels of detail, coarse to fine.
        router: makes the router, given the granularities, the width of the LLM's embeddings, and by the semantics
            along which axis it attends and whether it normalises its logits.
        pooling: how the scaler pools.
        k: instruction tokens the router hears; 0 for a router without instruction.
        semantics: `paper`, `release`, or a preset and the points in which to leave it.

    Raises:
        UserError: k is larger than the router was built for.
    """

    def __init__(
        self,
        backbone: Callable[[], Backbone],
        granularities: Granularities,
        router: Callable[[Granularities, int, Attention, bool], GranularityRouter] = GranularityRouter,
        pooling: Pooling = "average",
        k: int = 32,
        semantics: Semantics | Preset = "paper",
    ) -> None:
        super().__init__()
        self.semantics = choices = choices_of(semantics)
        self.granularities = granularities
        self.layout = VisualLayout(granularities, choices.unpad)
        gpus = [torch.cuda.current_device()] if torch.empty(0).is_cuda else []
        with torch.random.fork_rng(devices=gpus):  # a router begins alike whatever its backbone draws, be it no LLM
            self.backbone = backbone()
        self.scaler = GranularityScaler(granularities, pooling)
        self.instruction_filter = InstructionFilter(k, choices.empty_slots)
        self.router = router(granularities, self.backbone.width, choices.attention, choices.logit_norm)
        self.router.check_slots(k)
        self.prompt_encoder = None
        self.context_length = ContextLength(self.backbone.positions)
        self.router_is_trained = True
        """Whether `generate` goes by the router where no policy is given."""

    def forward(self, computation: Callable[[Batch], Computed], batch: Batch) -> Computed:
        """Whatever is computed with the model on a batch, as one call of it.

        FSDP2 gathers what does not belong to a single layer (embeddings, LM head, newline token) when the module it
        has sharded is called, and only then.
        """
        return computation(batch)

    def encode_levels(self, batch: Batch) -> list[Tensor]:
        """Encode every tile once: N tensors (tiles, tokens of the level, D), coarse to fine. Raises as `encode`."""
        return self.scaler(self.encode(batch))

    def encode(self, batch: Batch) -> Tensor:
        """Every tile's tokens at the finest level, (tiles, finest tokens, D).

        Raises:
            UserError: the encoder gives another number of tokens per tile than the finest granularity.
        """
        features = self.backbone.encode(batch.pixel_values)
        if (tokens := features.shape[1]) != self.granularities.finest:
            mend = f"choose granularities that end in {tokens}"
            if tokens % 2 and isqrt(tokens) ** 2 == tokens:
                mend += f"; a grid of {isqrt(tokens)}x{isqrt(tokens)} does not halve, so {SQUARES}"
            raise UserError(
                f"the vision encoder gives {tokens} tokens per tile, but the finest granularity is "
                f"{self.granularities.finest}; {mend}"
            )
        return features

    def route(self, batch: Batch, levels: Sequence[Tensor]) -> Tensor:
        """Router logits of every question, (Q, N); zeros where there is no image and so nothing to route.

        A batch without any image still has the router judge an empty tile, as `Backbone.encode` has one encoded.
        """
        image_of_question = batch.image_of_question.tolist()
        routed = [question for question, image in enumerate(image_of_question) if image >= 0]
        logits = levels[0].new_zeros(len(image_of_question), len(self.granularities))
        averaged = self.scaler.pooling == "average"
        if not routed:
            return logits + self._routed_empty_tile(batch, levels, averaged) * 0
        images = [image_of_question[question] for question in routed]
        begins = [sum(batch.tiles[:image]) for image in images]
        counts = [batch.tiles[image] for image in images]
        tiles = torch.cat([torch.arange(begin, begin + count) for begin, count in zip(begins, counts, strict=True)])
        places = torch.tensor(routed, device=logits.device)
        instruction = self.instruction_filter(*self._candidates(batch, places), levels[-1][begins])
        seen = levels if tiles.equal(torch.arange(sum(batch.tiles))) else [level[tiles] for level in levels]
        scores = self.router(seen, instruction, counts, averaged=averaged)
        return logits.index_copy(0, places, scores)

    def _routed_empty_tile(self, batch: Batch, levels: Sequence[Tensor], averaged: bool) -> Tensor:
        """Router logits (1, N) of the batch's first question about one tile of zeros; no random number is drawn."""
        empty = [level.new_zeros(1, *level.shape[1:]) for level in levels]
        device = empty[0].device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            first = torch.zeros(1, dtype=torch.long, device=device)
            instruction = self.instruction_filter(*self._candidates(batch, first), empty[-1])
            return self.router(empty, instruction, [1], averaged=averaged)

    def answer_tokens(self, batch: Batch, levels: Levels, level_of_row: Sequence[int]) -> AnswerTokens:
        """Let the LLM score the answers, each row seeing its image at the granularity chosen for it."""
        rows = llm_input(batch, level_of_row, self.layout)
        self.context_length.look_at(rows.position_ids)
        return self.backbone.answer_tokens(self.embeddings(batch, levels, level_of_row, rows), rows)

    def answer_tokens_at(self, batch: Batch, levels: Levels, level: int) -> AnswerTokens:
        """`answer_tokens` with every row at the same level."""
        return self.answer_tokens(batch, levels, [level] * len(batch.input_ids))

    def embeddings(self, batch: Batch, levels: Levels, level_of_row: Sequence[int], rows: LlmInput) -> Tensor:
        """What the LLM reads, (B, S, D): text and visual tokens where `rows` says."""
        visual = [levels[level].flatten(0, 1) for level in used_levels(level_of_row)]
        text = self.backbone.embed(batch.input_ids).flatten(0, 1)
        table = torch.cat([self.backbone.image_newline.unsqueeze(0), text, *visual])
        return table[rows.source]

    @torch.no_grad()
    def generate(
        self,
        images: Sequence[Image | None],
        prompts: Sequence[str],
        policy: Policy | None = None,
        max_new_tokens: int = 128,
        generation: Generation | None = None,
    ) -> Answers:
        """Answer prompts about images, each at the granularity that suits it.

        Args:
            images: one for each prompt, None for a prompt without image.
            prompts: what the user says.
            policy: how granularities are chosen: by the router if not given, or the finest if that is untrained.
            max_new_tokens: length of an answer, at most.
            generation: sampling, end tokens, streaming; by default greedy.

        Raises:
            UserError: the model was not loaded from a folder with a processor, an image or a prompt is no good, or
                what the model computes is not finite.
        """
        if self.prompt_encoder is None:
            raise UserError("this model has no processor; load one that `lit-avg export` wrote, with from_pretrained")
        batch = self.prompt_encoder(images, prompts).to(self.backbone.image_newline.device)
        levels = self.encode_levels(batch)
        scores = self.route(batch, levels).float().log_softmax(dim=1).cpu()
        check_scores(batch.keys, scores)
        policy = policy or (RouterPolicy() if self.router_is_trained else FixedPolicy(self.granularities.finest))
        chosen = choose_levels(policy, PolicyInputs(batch.keys, self.granularities, scores)).tolist()
        ids = self.generate_ids(batch, chosen, max_new_tokens, generation, levels)
        counts = visual_token_counts(batch, self.layout)
        return Answers(
            texts=[self.prompt_encoder.decode(answer) for answer in ids],
            granularities=[self.granularities.tokens[level] for level in chosen],
            probabilities=scores.exp(),
            visual_tokens=[int(counts[question, level]) for question, level in enumerate(chosen)],
        )

    @torch.no_grad()
    def generate_ids(
        self,
        batch: Batch,
        level_of_question: Sequence[int],
        max_new_tokens: int,
        generation: Generation | None = None,
        levels: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Answer every question, each at a granularity of its own.

        Args:
            batch: the questions. A dialogue is continued where its last answer stood; one without labels is a prompt
                as it stands.
            level_of_question: Q levels.
            max_new_tokens: length of an answer, at most.
            generation: sampling, end tokens, streaming; by default greedy.
            levels: what `encode_levels` gave for this batch, where it was called already; spares the encoder a
                second time.

        Returns:
            (Q, at most max_new_tokens) token ids, filled up as `Backbone.generate` does.
        """
        prompts = without_last_answers(separate_questions(batch))
        levels = self.encode_levels(prompts) if levels is None else levels
        rows = llm_input(prompts, level_of_question, self.layout)
        self.context_length.look_at(rows.position_ids)
        embeddings = self.embeddings(prompts, levels, level_of_question, rows)
        lengths = (rows.question != PADDING).sum(dim=1).tolist()
        texts = [row[:length] for row, length in zip(embeddings, lengths, strict=True)]
        return self.backbone.generate(texts, max_new_tokens, generation)

    def _candidates(self, batch: Batch, questions: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (Q', T, D) of what the filter chooses from for some questions (Q',), and which may be heard."""
        candidates = instruction_candidates(batch, self.semantics.instruction, self.router.training)
        embeddings = self.backbone.embed(candidates.input_ids[questions])
        empty = candidates.empty[questions].unsqueeze(2)
        return embeddings.masked_fill(empty, 0.0), candidates.heard[questions]
