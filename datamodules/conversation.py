"""A conversation to token ids, by the same chat template in training and in evaluation.

Which tokens are answers is what the template's `{% generation %}` marks say, the end token included; instruction
tokens are the text of the user's turns, without role tags and without the image. Both are spans of characters in the
rendered text, and a token belongs to a span if it shares a character with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from datamodules.samples import IMAGE_MARK, BadSampleError, Turn
from lit_avg.batch import IMAGE_PLACEHOLDER
from lit_avg.errors import UserError

VICUNA_SYSTEM_PROMPT = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)

TEMPLATES = Path(__file__).parent / "templates"
"""Chat templates that ship with the project, one file each."""

REMEMBERED = 4096
"""Conversations whose rendering is kept: data sets of few distinct questions and answers are rendered once."""

_PROBE = (Turn("human", "Why?"), Turn("gpt", "So."))
"""The shortest conversation, to try a template with."""

Span = tuple[int, int]


class NoRoomError(BadSampleError):
    """A conversation whose first answer does not fit into the maximum length."""


@dataclass(frozen=True)
class Rendering:
    """T tokens of one conversation. The tensors are shared between equal conversations: do not write to them."""

    input_ids: Tensor  # (T,) int64, IMAGE_PLACEHOLDER for the image
    answer: Tensor  # (T,) bool
    instruction: Tensor  # (T,) bool
    prefix: int  # tokens up to and including the image, 0 without one
    ends: tuple[int, ...]  # tokens up to and including the end of each answer

    def cut(self, length: int) -> "Rendering":
        """The first tokens only."""
        return replace(
            self,
            input_ids=self.input_ids[:length],
            answer=self.answer[:length],
            instruction=self.instruction[:length],
            ends=tuple(end for end in self.ends if end <= length),
        )


class ConversationRenderer:
    """Renders conversations for one tokenizer.

    Args:
        tokenizer: a fast one; `<image>` is added to it as a special token if it has none.
        template: `vicuna`, `llama3`, `qwen2`, `plain` (captions, as in stage 1), or a file with a chat template that
            marks its answers.
        system_prompt: what a conversation without a system turn begins with; None or empty for nothing.
        max_length: longest rendering in tokens, the image counted as one so that the same words are left at every
            granularity. What is longer ends with the last answer that fits whole.

    Raises:
        UserError: there is no such template, it marks no answers, or the tokenizer does not fit it.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        template: str = "vicuna",
        system_prompt: str | None = VICUNA_SYSTEM_PROMPT,
        max_length: int = 4096,
    ) -> None:
        self.tokenizer = tokenizer
        self.tokenizer.add_special_tokens(
            {"additional_special_tokens": [IMAGE_MARK]}, replace_extra_special_tokens=False
        )
        self.image_id = cast(int, tokenizer.convert_tokens_to_ids(IMAGE_MARK))
        self.template = read_template(template)
        self.system_prompt = system_prompt
        self.max_length = max_length
        self._remembered: dict[tuple[tuple[Turn, ...], bool], Rendering] = {}
        self._check_fit(template)

    @property
    def end_token(self) -> int:
        """The token that ends every answer, where generation has to stop."""
        rendering = self._render(_PROBE, has_image=False)
        return int(rendering.input_ids[rendering.answer][-1])

    def __call__(self, turns: tuple[Turn, ...], has_image: bool) -> Rendering:
        """Render one conversation.

        Args:
            turns: a system turn or none, then rounds; where the image is marked does not matter, it goes first.
            has_image: whether an image is shown.

        Raises:
            NoRoomError: the first answer does not fit into the maximum length.
        """
        known = self._remembered.get((turns, has_image))
        if known is not None:
            return known
        rendering = self._shortened(self._render(turns, has_image))
        if len(self._remembered) < REMEMBERED:
            self._remembered[turns, has_image] = rendering
        return rendering

    def _render(self, turns: tuple[Turn, ...], has_image: bool) -> Rendering:
        messages = self._messages(turns, has_image)
        rendered, generated = render_jinja_template(
            [messages],
            chat_template=self.template,
            return_assistant_tokens_mask=True,
            bos_token=self.tokenizer.bos_token or "",
            eos_token=self.tokenizer.eos_token or "",
        )
        text, answers = rendered[0], cast(list[Span], generated[0])
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        offsets = torch.tensor(encoded["offset_mapping"])
        input_ids = torch.tensor(encoded["input_ids"])
        image = input_ids == self.image_id
        questions = [question for speaker, question in turns if speaker == "human"]
        return Rendering(
            input_ids=input_ids.masked_fill(image, IMAGE_PLACEHOLDER),
            answer=_in_spans(offsets, answers),
            instruction=_in_spans(offsets, _question_spans(text, questions, answers)) & ~image,
            prefix=int(image.nonzero()[0]) + 1 if has_image else 0,
            ends=tuple(int((offsets[:, 0] < end).sum()) for _, end in answers),
        )

    def _check_fit(self, template: str) -> None:
        """See that answers end with one special token, and that a prompt has the tokens that training shows."""
        end = self.end_token
        if end not in self.tokenizer.added_tokens_decoder:
            text = self.tokenizer.convert_ids_to_tokens(end)
            raise UserError(
                f"template: {template} ends answers with {text!r}, which is no special token of the tokenizer; choose "
                "the template that belongs to the tokenizer, or add the token to it"
            )
        taught = self._render(_PROBE, has_image=False)
        asked = self.tokenizer.apply_chat_template(
            self._messages(_PROBE, has_image=False)[:-1],
            chat_template=self.template,
            add_generation_prompt=True,
            tokenize=False,
        )
        shown = self.tokenizer(cast(str, asked), add_special_tokens=False)["input_ids"]
        if shown != taught.input_ids[: int(taught.answer.nonzero()[0])].tolist():
            raise UserError(
                f"template: with this tokenizer {template} shows other tokens before an answer than in a prompt; move "
                "a space into the {% generation %} block, or choose the template that belongs to the tokenizer"
            )

    def _messages(self, turns: tuple[Turn, ...], has_image: bool) -> list[dict[str, str]]:
        """Turns as chat templates expect them, the image before the first question."""
        roles = {"system": "system", "human": "user", "gpt": "assistant"}
        messages = [{"role": roles[speaker], "content": words_of(text)} for speaker, text in turns]
        first = len(turns) % 2
        if has_image:
            messages[first]["content"] = f"{IMAGE_MARK}\n{messages[first]['content']}"
        if not first and self.system_prompt:
            messages.insert(0, {"role": "system", "content": self.system_prompt})
        return messages

    def _shortened(self, rendering: Rendering) -> Rendering:
        """End with the last answer that fits whole."""
        if len(rendering.input_ids) <= self.max_length:
            return rendering
        fitting = [end for end in rendering.ends if end <= self.max_length]
        if not fitting:
            raise NoRoomError(
                f"its first answer ends at token {rendering.ends[0]}, and max_length is {self.max_length}"
            )
        return rendering.cut(fitting[-1])


def read_template(name: str) -> str:
    """A chat template: one of the project's by its name, or any file.

    Raises:
        UserError: there is no such template, or it marks no answers.
    """
    shipped = TEMPLATES / f"{name}.jinja"
    path = shipped if shipped.is_file() else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in TEMPLATES.glob("*.jinja")))
        raise UserError(f"template: there is none called {name}; give {known}, or a chat template's file")
    template = path.read_text(encoding="utf-8")
    if "generation" not in template:
        raise UserError(f"template: {path} does not mark its answers; put them into {{% generation %}} blocks")
    return template


def words_of(text: str) -> str:
    """What is said, without the image's mark and the space around it."""
    return text.replace(IMAGE_MARK, "").strip()


def _question_spans(text: str, questions: Sequence[str], answers: Sequence[Span]) -> list[Span]:
    """Where the user's words stand: each before its own answer and after the one before; templates may drop them."""
    spans: list[Span] = []
    after = 0
    for question, (begin, end) in zip(questions, answers, strict=True):
        words = words_of(question)
        found = text.rfind(words, after, begin)
        if words and found >= 0:
            spans.append((found, found + len(words)))
        after = end
    return spans


def _in_spans(offsets: Tensor, spans: Sequence[Span]) -> Tensor:
    """(T,) bool, which tokens (their character offsets, (T, 2)) share a character with one of the spans."""
    inside = torch.zeros(len(offsets), dtype=torch.bool)
    for begin, end in spans:
        inside |= (offsets[:, 0] < end) & (offsets[:, 1] > begin)
    return inside
