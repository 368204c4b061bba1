"""A conversation to token ids, by the same chat template in training, in evaluation and in the exported processor.

How messages become tokens is `lit_avg.inputs.chat_encoding`'s; here are the templates, what a conversation's turns are
as messages, and what is left of a conversation that is too long.
"""

import json
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from datamodules.shards.sample import BadSampleError, Turn
from lit_avg.inputs import IMAGE_MARK, words_of
from lit_avg.inputs.chat_encoding import ChatEncoder, Message, Role, TokenizedConversation, UnwritableError
from lit_avg.utils.errors import UserError

VICUNA_SYSTEM_PROMPT = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)

TEMPLATES = Path(__file__).parent / "templates"
"""Chat templates that ship with the project, one file each, and in `shared` what goes before all of them."""

REMEMBERED = 4096
"""Conversations whose rendering is kept: data sets of few distinct questions and answers are rendered once."""

_PROBE = (Message("user", "Why?"), Message("assistant", "So."))
"""The shortest conversation, to try a template with."""

_ROLES: dict[str, Role] = {"system": "system", "human": "user", "gpt": "assistant"}


class NoRoomError(BadSampleError):
    """A conversation whose first answer does not fit into the maximum length."""


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
        self.template = read_template(template)
        self.max_length = max_length
        if any(0xD800 <= ord(sign) <= 0xDFFF for sign in system_prompt or ""):
            raise UserError("system_prompt: it has half a character, which is no Unicode; write signs as themselves")
        self.encode = ChatEncoder(tokenizer, chat_template(self.template, system_prompt))
        self._remembered: dict[tuple[tuple[Turn, ...], bool], TokenizedConversation] = {}
        if token := self.encode.control_in(system_prompt or ""):
            raise UserError(f"system_prompt: it says {token}, which steers the model; write it in other words")
        self._check_fit(template)

    @property
    def image_id(self) -> int:
        """The token of `<image>`."""
        return self.encode.image_id

    @property
    def end_token(self) -> int:
        """The token that ends every answer, where generation has to stop."""
        probe = self.encode(_PROBE)
        return int(probe.input_ids[probe.answer][-1])

    def __call__(self, turns: tuple[Turn, ...], has_image: bool) -> TokenizedConversation:
        """Tokenise one conversation.

        Args:
            turns: a system turn or none, then rounds; where the image is marked does not matter, it goes first.
            has_image: whether an image is shown.

        Raises:
            NoRoomError: the first answer does not fit into the maximum length.
            BadSampleError: it spells a control token, and that cannot be written as text.
        """
        remembered = self._remembered.get((turns, has_image))
        if remembered is not None:
            return remembered
        try:
            rendering = self._shortened(self.encode(messages_of(turns, has_image)))
        except UnwritableError as error:
            raise BadSampleError(str(error)) from error
        if len(self._remembered) < REMEMBERED:
            self._remembered[turns, has_image] = rendering
        return rendering

    def _check_fit(self, template: str) -> None:
        """See that answers end with one special token, and that a prompt has the tokens that training shows."""
        end = self.end_token
        if end not in self.tokenizer.added_tokens_decoder:
            text = self.tokenizer.convert_ids_to_tokens(end)
            raise UserError(
                f"template: {template} ends answers with {text!r}, which is no special token of the tokenizer; choose "
                "the template that belongs to the tokenizer, or add the token to it"
            )
        for question in (_PROBE[0], _PROBE[0]._replace(shows_image=True)):
            taught = self.encode([question, _PROBE[1]])
            shown = self.encode([question], prompt=True).input_ids
            if shown.tolist() != taught.input_ids[: int(taught.answer.nonzero()[0])].tolist():
                raise UserError(
                    f"template: with this tokenizer {template} shows other tokens before an answer than in a prompt; "
                    "move a space into the {% generation %} block, or choose the template that belongs to the tokenizer"
                )

    def _shortened(self, rendering: TokenizedConversation) -> TokenizedConversation:
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
        shipped_names = ", ".join(sorted(file.stem for file in TEMPLATES.glob("*.jinja")))
        raise UserError(f"template: there is none called {name}; give {shipped_names}, or a chat template's file")
    template = path.read_text(encoding="utf-8")
    if "generation" not in template:
        raise UserError(f"template: {path} does not mark its answers; put them into {{% generation %}} blocks")
    return template


def chat_template(template: str, system_prompt: str | None) -> str:
    """The template as training, evaluation and the exported processor use it.

    Args:
        template: takes messages whose content is a string, `<image>` and a new line before the words.
        system_prompt: what a conversation without a system turn begins with; None or empty for nothing.
    """
    whole = (TEMPLATES / "shared" / "list_content.jinja").read_text(encoding="utf-8") + template
    if not system_prompt:
        return whole
    # Characters beyond the basic plane as they are: JSON escapes their two halves, and Jinja leaves them two.
    system = f"[{{'role': 'system', 'content': {json.dumps(system_prompt, ensure_ascii=False)}}}]"
    without = "messages[0]['role'] != 'system'"
    return f"{{%- if {without} -%}}{{%- set messages = {system} + messages -%}}{{%- endif %}}\n{whole}"


def messages_of(turns: tuple[Turn, ...], has_image: bool) -> list[Message]:
    """Turns as messages, the image before the first question's words."""
    pictured = len(turns) % 2 if has_image else None
    return [
        Message(_ROLES[speaker], words_of(text) if number == pictured else text.strip(), number == pictured)
        for number, (speaker, text) in enumerate(turns)
    ]
