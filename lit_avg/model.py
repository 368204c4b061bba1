"""`AvgLlava`: LLaVA-NeXT with a scaler, an instruction filter and a router. A plain torch module."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lit_avg.backbone import AnswerTokens, Backbone
from lit_avg.batch import PADDING, Batch
from lit_avg.errors import UserError
from lit_avg.generation import Generation
from lit_avg.granularity import Granularities
from lit_avg.instruction_filter import InstructionFilter
from lit_avg.router import GranularityRouter
from lit_avg.scaler import GranularityScaler, Pooling
from lit_avg.sequences import LlmInput, llm_input, separate_questions, used_levels, without_last_answers


class AvgLlava(nn.Module):
    """Adaptive visual granularity on LLaVA-NeXT.

    Args:
        backbone: makes the backbone; called here, so that a sharded strategy can build it in place.
        granularities: the levels of detail, coarse to fine.
        router: makes the router, given the granularities and the width of the LLM's embeddings.
        pooling: how the scaler pools.
        k: instruction tokens the router hears; 0 for a router without instruction.

    Raises:
        UserError: k is larger than the router was built for.
    """

    def __init__(
        self,
        backbone: Callable[[], Backbone],
        granularities: Granularities,
        router: Callable[[Granularities, int], GranularityRouter] = GranularityRouter,
        pooling: Pooling = "average",
        k: int = 32,
    ) -> None:
        super().__init__()
        self.granularities = granularities
        self.backbone = backbone()
        self.scaler = GranularityScaler(granularities, pooling)
        self.instruction_filter = InstructionFilter(k)
        self.router = router(granularities, self.backbone.width)
        self.router.check_slots(k)

    def see(self, batch: Batch) -> list[Tensor]:
        """Encode every tile once: N tensors (tiles, tokens of the level, D), coarse to fine.

        Raises:
            UserError: the encoder gives another number of tokens per tile than the finest granularity.
        """
        features = self.backbone.encode(batch.pixel_values)
        if features.shape[1] != self.granularities.finest:
            raise UserError(
                f"the vision encoder gives {features.shape[1]} tokens per tile, but the finest granularity is "
                f"{self.granularities.finest}; choose granularities that end in {features.shape[1]}"
            )
        return self.scaler(features)

    def route(self, batch: Batch, levels: Sequence[Tensor]) -> Tensor:
        """Router logits of every question, (Q, N); zeros where there is no image and so nothing to route."""
        image_of_question = batch.image_of_question.tolist()
        routed = [question for question, image in enumerate(image_of_question) if image >= 0]
        logits = levels[0].new_zeros(len(image_of_question), len(self.granularities))
        if not routed:  # every rank of a distributed run owes the router a gradient, be it zero
            return logits + sum(parameter.sum() * 0 for parameter in self.router.parameters())
        images = [image_of_question[question] for question in routed]
        begins = [sum(batch.tiles[:image]) for image in images]
        counts = [batch.tiles[image] for image in images]
        tiles = torch.cat([torch.arange(begin, begin + count) for begin, count in zip(begins, counts, strict=True)])
        tokens, valid = self._instructions(batch, routed)
        instruction = self.instruction_filter(tokens, valid, levels[-1][begins])
        places = torch.tensor(routed, device=logits.device)
        return logits.index_copy(0, places, self.router([level[tiles] for level in levels], instruction, counts))

    def answer_tokens(self, batch: Batch, levels: Sequence[Tensor], level_of_row: Sequence[int]) -> AnswerTokens:
        """Let the LLM score the answers, each row seeing its image at the granularity chosen for it."""
        rows = llm_input(batch, level_of_row, self.granularities)
        return self.backbone.answer_tokens(self.embeddings(batch, levels, level_of_row, rows), rows)

    def answer_tokens_at(self, batch: Batch, levels: Sequence[Tensor], level: int) -> AnswerTokens:
        """`answer_tokens` with every row at the same level."""
        return self.answer_tokens(batch, levels, [level] * len(batch.input_ids))

    def embeddings(self, batch: Batch, levels: Sequence[Tensor], level_of_row: Sequence[int], rows: LlmInput) -> Tensor:
        """What the LLM reads, (B, S, D): text and visual tokens where `rows` says."""
        visual = [levels[level].flatten(0, 1) for level in used_levels(level_of_row)]
        text = self.backbone.embed(batch.input_ids).flatten(0, 1)
        table = torch.cat([self.backbone.image_newline.unsqueeze(0), text, *visual])
        return table[rows.source]

    @torch.no_grad()
    def generate(
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
            levels: what `see` gave for this batch, where it was called already; spares the encoder a second time.

        Returns:
            (Q, at most max_new_tokens) token ids, filled up as `Backbone.generate` does.
        """
        prompts = without_last_answers(separate_questions(batch))
        levels = self.see(prompts) if levels is None else levels
        rows = llm_input(prompts, level_of_question, self.granularities)
        embeddings = self.embeddings(prompts, levels, level_of_question, rows)
        lengths = (rows.question != PADDING).sum(dim=1).tolist()
        texts = [row[:length] for row, length in zip(embeddings, lengths, strict=True)]
        return self.backbone.generate(texts, max_new_tokens, generation)

    def _instructions(self, batch: Batch, questions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Embeddings (Q', T, D) of the instruction tokens of some questions, and which of them are there (Q', T)."""
        chosen = [batch.input_ids[batch.instruction & (batch.question == question)] for question in questions]
        ids = pad_sequence(chosen, batch_first=True)
        lengths = torch.tensor([len(tokens) for tokens in chosen], device=ids.device)
        valid = torch.arange(ids.shape[1], device=ids.device) < lengths.unsqueeze(1)
        return self.backbone.embed(ids), valid
