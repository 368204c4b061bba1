"""Messages to token ids by a chat template: one way for training, evaluation, `generate` and the exported processor.

What people say is data, never control: where it spells a token that the template steers with (`</s>`, `<|im_end|>`,
`<image>` ...), the spelling is tokenised as any other text. All else has the ids of transformers' own
`apply_chat_template`.

Where each message's words stand is not searched for but recorded: they are rendered between two characters that occur
nowhere else. The answers are what the template's `{% generation %}` blocks say, the end token included. A token belongs
to a span of characters if it shares one with it.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, cast

import torch
from jinja2 import TemplateError
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from lit_avg.batch import IMAGE_PLACEHOLDER
from lit_avg.inputs import IMAGE_MARK
from lit_avg.utils.errors import UserError

Role = Literal["system", "user", "assistant"]

ROLES: tuple[Role, ...] = ("system", "user", "assistant")

Span = tuple[int, int]

PRIVATE = range(0x10FFFD, 0x100000, -1)
"""Characters to mark words and tokens with, the last ones of Unicode's last private plane first."""


class Message(NamedTuple):
    """What one role says."""

    role: Role
    words: str  # without the image's mark
    shows_image: bool = False  # before the words


class UnwritableError(UserError):
    """Words that the tokenizer or the chat template makes something else of."""


@dataclass(frozen=True)
class TokenizedConversation:
    """T tokens of one conversation. The tensors are shared between equal conversations: do not write to them."""

    input_ids: Tensor  # (T,) int64, IMAGE_PLACEHOLDER for the image
    answer: Tensor  # (T,) bool
    instruction: Tensor  # (T,) bool, the words of the user's turns without role tags and without the image
    prefix: int  # tokens up to and including the image, 0 without one
    ends: tuple[int, ...]  # tokens up to and including the end of each answer

    def cut(self, length: int) -> "TokenizedConversation":
        """The first tokens only."""
        return replace(
            self,
            input_ids=self.input_ids[:length],
            answer=self.answer[:length],
            instruction=self.instruction[:length],
            ends=tuple(end for end in self.ends if end <= length),
        )


@dataclass(frozen=True)
class Rendered:
    """A chat as text, and where things stand in it."""

    text: str
    said: list[tuple[Role, Span]]  # the words of each message that the template shows
    answers: list[Span]


class ChatEncoder:
    """Encodes chats for one tokenizer and one chat template.

    Args:
        tokenizer: a fast one, with `<image>` among its special tokens.
        template: a chat template for messages whose content is a string.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, template: str) -> None:
        self.template = template
        self.image_id = cast(int, tokenizer.convert_tokens_to_ids(IMAGE_MARK))
        self._variables = {"bos_token": "", "eos_token": "", **cast(dict[str, Any], tokenizer.special_tokens_map)}
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        # A post-processor adds the special tokens that the template writes by itself, and may trim the offsets.
        self._backend = _tokenizer({**backend, "post_processor": None, "truncation": None, "padding": None})
        self._unknown = {cast(int | None, tokenizer.unk_token_id), *_unknown_of(backend["model"], self._backend)}
        written = self.template + self._probe()
        self.control = {
            number: token.content
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.special or (token.content in written and not token.content.isspace())
        }

    def __call__(self, messages: Sequence[Message], prompt: bool = False) -> TokenizedConversation:
        """Encode a conversation.

        Args:
            messages: at most one of them shows the image.
            prompt: end where an answer begins.

        Raises:
            UnwritableError: words spell a token that the tokenizer cannot write as text, or the template does more
                with them than to show them, takes no such roles, or shows another number of images.
        """
        rendered = self._rendered(messages, prompt)
        ids, offsets = self._tokens(rendered)
        input_ids, begins = torch.tensor(ids, dtype=torch.long), offsets[:, 0]
        image = input_ids == self.image_id
        if int(image.sum()) != (shown := sum(message.shows_image for message in messages)):
            raise UnwritableError(f"the template shows {int(image.sum())} images where there is {shown}")
        asked = [span for role, span in rendered.said if role == "user"]
        return TokenizedConversation(
            input_ids=input_ids.masked_fill(image, IMAGE_PLACEHOLDER),
            answer=_in_spans(offsets, rendered.answers),
            instruction=_in_spans(offsets, asked) & ~image,
            prefix=int(image.nonzero()[0]) + 1 if shown else 0,
            ends=tuple(int((begins < end).sum()) for _, end in rendered.answers),
        )

    def control_in(self, text: str) -> str | None:
        """A control token that the text spells, if any."""
        return next((token for token in self.control.values() if token in text), None)

    def _probe(self) -> str:
        """What the template writes by itself around a question, an answer, and before the next one."""
        messages = [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]
        return self._render(messages, prompt=True, answers=False)[0]

    def _rendered(self, messages: Sequence[Message], prompt: bool) -> Rendered:
        """Render with and without marks; the text must be the same."""
        plain = [{"role": message.role, "content": _content(message, message.words)} for message in messages]
        text, answers = self._render(plain, prompt, answers=not prompt)
        *begins, end = _unused(text + self.template, len(ROLES) + 1)
        marked = [
            {
                "role": message.role,
                "content": _content(message, _between(begins[ROLES.index(message.role)], message.words, end)),
            }
            for message in messages
        ]
        said = _spans(self._render(marked, prompt, answers=False)[0], begins, end, text)
        return Rendered(text, said, answers)

    def _render(self, messages: list[dict[str, str]], prompt: bool, answers: bool) -> tuple[str, list[Span]]:
        """The text, and the template's `{% generation %}` blocks in it if they are asked for."""
        try:
            texts, blocks = cast(
                tuple[list[str], list[list[Span]]],
                cast(Any, render_jinja_template)(
                    [messages],
                    chat_template=self.template,
                    add_generation_prompt=prompt,
                    return_assistant_tokens_mask=answers,
                    **self._variables,
                ),
            )
        except (TemplateError, TypeError) as error:
            raise UnwritableError(f"template: it cannot be rendered: {error}") from error
        return texts[0], blocks[0] if answers else []

    def _tokens(self, rendered: Rendered) -> tuple[list[int], Tensor]:
        """Token ids, and the characters of each, (T, 2)."""
        try:
            encoded = self._backend.encode(rendered.text, add_special_tokens=False)
        except (TypeError, UnicodeEncodeError) as error:  # which of them, depends on the version of tokenizers
            raise UnwritableError("it has text that is not Unicode") from error
        words = [span for _, span in rendered.said]
        controls = [
            (token, span)
            for token, span in zip(encoded.ids, encoded.offsets, strict=True)
            if token in self.control and self._is_written(token, rendered.text[slice(*span)])
        ]
        spelled = [(token, span) for token, span in controls if _meets(span, words)]
        if not spelled:
            return encoded.ids, torch.tensor(encoded.offsets, dtype=torch.long).view(-1, 2)
        for token, span in spelled:
            if not any(begin <= span[0] and span[1] <= end for begin, end in words):
                raise UnwritableError(f"what it says and the template's own text make a {self.control[token]} together")
        return self._as_text(rendered.text, words, [one for one in controls if one not in spelled])

    def _as_text(self, text: str, words: list[Span], controls: list[tuple[int, Span]]) -> tuple[list[int], Tensor]:
        """The same, the tokenizer knowing the template's own control tokens by other names than the words spell."""
        if taken := set(self._names.values()) & set(text):
            raise UnwritableError(f"it has the private character {min(taken)!r} and spells a control token")
        renamed, origins, done = list[str](), list[int](), 0
        for token, (begin, end) in controls:
            begin, end = _stripped(text, begin, end)
            renamed += [text[done:begin], self._names[token]]
            origins += [*range(done, begin), begin]
            done = end
        origins += range(done, len(text) + 1)
        encoded = self._renaming.encode("".join([*renamed, text[done:]]), add_special_tokens=False)
        offsets = [(origins[begin], origins[end]) for begin, end in encoded.offsets]
        ids = [self._numbers.get(token, token) for token in encoded.ids]
        steering = set(self.control) - self._unknown
        if [token for token in ids if token in steering] != [token for token, _ in controls if token in steering]:
            said = next(token for _, token in sorted(self.control.items()) if any(token in text[b:e] for b, e in words))
            raise UnwritableError(f"it says {said}, which this tokenizer cannot write as text")
        return ids, torch.tensor(offsets, dtype=torch.long).view(-1, 2)

    def _is_written(self, token: int, text: str) -> bool:
        """Whether a control token is there because the text spells it, not because the tokenizer knows no better."""
        return token not in self._unknown or text.strip() == self.control[token]

    @cached_property
    def _names(self) -> dict[int, str]:
        """A private character for each control token."""
        return {token: chr(code) for token, code in zip(self.control, PRIVATE, strict=False)}

    @cached_property
    def _renaming(self) -> Tokenizer:
        """The tokenizer, but that control tokens are written by their private characters."""
        settings = json.loads(self._backend.to_str())
        names = {self.control[token]: name for token, name in self._names.items()}
        for token in settings["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        model = settings["model"]  # its vocabulary may have them as well, and find them in a text by itself
        if isinstance(model["vocab"], dict):
            model["vocab"] = {names.get(piece, piece): number for piece, number in model["vocab"].items()}
        else:
            model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
        if isinstance(unknown := model.get("unk_token"), str):
            model["unk_token"] = names.get(unknown, unknown)
        return _tokenizer(settings)

    @cached_property
    def _numbers(self) -> dict[int, int]:
        """Ids of the renaming tokenizer's added tokens to ours."""
        ours = self._backend.get_added_tokens_decoder()
        names = {token: self._names.get(token, added.content) for token, added in ours.items()}
        return {cast(int, self._renaming.token_to_id(name)): token for token, name in names.items()}


def _tokenizer(settings: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(settings))


def _unknown_of(model: dict[str, Any], tokenizer: Tokenizer) -> set[int | None]:
    """What a tokenizer's model makes of text that it does not know."""
    piece = model.get("unk_token")
    return {model.get("unk_id"), tokenizer.token_to_id(piece) if isinstance(piece, str) else None}


def _content(message: Message, words: str) -> str:
    return f"{IMAGE_MARK}\n{words}" if message.shows_image else words


def _between(begin: str, words: str, end: str) -> str:
    """The words in marks, the space around them outside, as templates may trim it."""
    core = words.strip()
    if not core:
        return words
    first = len(words) - len(words.lstrip())
    return f"{words[:first]}{begin}{core}{end}{words[first + len(core) :]}"


def _unused(text: str, count: int) -> list[str]:
    """So many private characters that the text does not have."""
    free = (chr(code) for code in PRIVATE if chr(code) not in text)
    return [character for character, _ in zip(free, range(count), strict=False)]


def _spans(marked: str, begins: list[str], end: str, text: str) -> list[tuple[Role, Span]]:
    """Where words stand in the text, given how it looks with their marks.

    Raises:
        UnwritableError: the marks change more than that they are there.
    """
    pieces = re.split(f"([{''.join(begins)}{end}])", marked)
    said, place, opened = list[tuple[Role, Span]](), 0, list[tuple[Role, int]]()
    for number, piece in enumerate(pieces):
        if number % 2 == 0:
            place += len(piece)
        elif piece != end:
            opened.append((ROLES[begins.index(piece)], place))
        elif opened:
            role, begin = opened.pop()
            said.append((role, (begin, place)))
    if "".join(pieces[::2]) != text or opened or 2 * len(said) != len(pieces) // 2:
        raise UnwritableError("template: it changes what is said by how that begins or ends, so its place is not known")
    return said


def _in_spans(offsets: Tensor, spans: Sequence[Span]) -> Tensor:
    """(T,) bool, which tokens (their character offsets, (T, 2)) share a character with one of the spans."""
    inside = torch.zeros(len(offsets), dtype=torch.bool)
    for begin, end in spans:
        inside |= (offsets[:, 0] < end) & (offsets[:, 1] > begin)
    return inside


def _meets(span: Span, others: Sequence[Span]) -> bool:
    """Whether it shares a character with one of the others, which are in order and apart."""
    return any(begin < span[1] and span[0] < end for begin, end in others)


def _stripped(text: str, begin: int, end: int) -> Span:
    """The same without the space that a token takes in with it."""
    own = text[begin:end]
    return begin + len(own) - len(own.lstrip()), end - len(own) + len(own.rstrip())
