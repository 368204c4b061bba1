"""`Generation`: how answers are generated, in transformers' own terms, and which prompts are continued together.

Padding costs, and so does another round of single steps.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import cast

from torch import Tensor
from transformers.generation.configuration_utils import GenerationConfig
from transformers.generation.logits_process import LogitsProcessor
from transformers.generation.stopping_criteria import StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from lit_avg.utils.errors import UserError


def check_end_token(end_token: int | None, end_tokens: Sequence[int]) -> None:
    """See that generation stops where the answers that are taught end.

    Args:
        end_token: what the data ends every answer with; None if that is not known.
        end_tokens: the model's.

    Raises:
        UserError: it would not.
    """
    if end_token is not None and end_token not in end_tokens:
        raise UserError(
            f"the template ends answers with token {end_token}, but the model stops at {list(end_tokens)}; choose "
            "the template that belongs to the model, or say eos_token_id in the llm's settings"
        )


class NonFiniteWatch(LogitsProcessor):
    """Sees every step's logits and changes none; the most probable token is the first where there is a NaN.

    Minus infinity is how transformers rules a token out, so it is no mistake, unless all are.
    """

    def __init__(self) -> None:
        self._wrong: Tensor | None = None  # stays on its device, so that no step waits for it

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]  torch's own names for tensors there
        """The logits (B, V) as they are."""
        wrong = ~scores.amax(dim=1).isfinite().all()  # a NaN is the largest, and so is what all are
        self._wrong = wrong if self._wrong is None else self._wrong | wrong
        return scores

    def check(self) -> None:
        """Refuse what was generated.

        Raises:
            UserError: a step had no finite logits to choose by.
        """
        if self._wrong is not None and bool(self._wrong):
            raise UserError("the LLM's logits are not finite, so it answers nothing; train it anew, or use float32")


@dataclass(frozen=True)
class Generation:
    """How prompts are continued: by default greedily, up to an end token of the model.

    Logits processors, stopping criteria and streamers are shown the new tokens only, since a prompt with an image has
    no token ids of its own: a repetition penalty, for one, does not count the words of the question.
    """

    config: GenerationConfig | None = None  # what it leaves open is the model's own; None: greedy, and the model's own
    stopping_criteria: StoppingCriteriaList | None = None  # end a row, beside the end tokens
    streamer: BaseStreamer | None = None  # is handed each token at once; transformers' text streamers take one row

    def settings(self, max_new_tokens: int) -> GenerationConfig:
        """What transformers' `generate` is told, so that it returns token ids, a row each prompt.

        Raises:
            UserError: more than one continuation of a prompt is asked for.
        """
        config = GenerationConfig(do_sample=False) if self.config is None else deepcopy(self.config)
        if config.num_return_sequences not in (None, 1):
            raise UserError(
                f"num_return_sequences is {config.num_return_sequences}, but a question gets one answer; leave it out"
            )
        config.max_new_tokens = max_new_tokens
        config.return_dict_in_generate = False
        return config

    def needs_one_batch(self, models: GenerationConfig) -> bool:
        """Whether an answer depends on which prompts are continued with it, given the model's own config.

        Random draws go through the rows of a batch step by step, and who streams or stops is told of all rows at once.
        """
        config = self.config or GenerationConfig(do_sample=False)
        samples = models.do_sample if config.do_sample is None else config.do_sample
        return bool(samples) or self.streamer is not None or self.stopping_criteria is not None

    def filling(self, models: GenerationConfig) -> int:
        """What stands behind a row that ended early, given the model's own config.

        As in transformers: the pad token, or else the first end token; 0 where no row can end.
        """
        own = self.config or GenerationConfig()
        pads = [cast(int | None, config.pad_token_id) for config in (own, models)]
        ends = [end for config in (own, models) for end in listed(cast(int | list[int] | None, config.eos_token_id))]
        return next((token for token in (*pads, *ends) if token is not None), 0)


def listed(tokens: int | list[int] | None) -> list[int]:
    """One token, several or none, as transformers' configs have them."""
    return [tokens] if isinstance(tokens, int) else tokens or []


STEP = 100
"""What one step of generation costs, in tokens of a prompt: it reads all weights for a handful of tokens."""


def groups_of_like_length(lengths: Sequence[int], cost_of_group: float) -> list[list[int]]:
    """Partition sequences so that their padded tokens and the groups' own cost are the least together.

    Args:
        lengths: tokens of each sequence.
        cost_of_group: in tokens.

    Returns:
        Places of the sequences, group by group, shortest first.
    """
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    best: list[tuple[float, int]] = [
        (0.0, 0)
    ]  # of the first n in order: the least cost, and where the last group begins
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        best.append(min((best[begin][0] + longest * (end - begin) + cost_of_group, begin) for begin in range(end)))
    groups, end = list[list[int]](), len(order)
    while end:
        begin = best[end][1]
        groups.insert(0, order[begin:end])
        end = begin
    return groups
