"""A sample as a shard holds it: a conversation in LLaVA's form, and at most one image.

`<key>.json` says `{"id", "conversations": [{"from", "value"}, …], "kinds"?, "source"?}`; `<key>.png` (or .jpg, …) is
the image, its bytes as they came. A **round** is one human turn and the gpt turn after it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from lit_avg.inputs import IMAGE_MARK, words_of
from lit_avg.utils.errors import UserError

SPEAKERS = ("human", "gpt", "system")


class BadSampleError(UserError):
    """A sample that is no good; in training, another may stand in for it."""


RawSample = dict[str, Any]
"""A sample's files as WebDataset gives them: bytes by extension, its key as `__key__`, its tar file as `__url__`."""


class Turn(NamedTuple):
    """What one speaker says."""

    speaker: str
    text: str


@dataclass(frozen=True)
class Sample:
    """One conversation, about an image or not."""

    key: str  # its name in the shards: a running number of 9 digits
    turns: tuple[Turn, ...]  # at most one system turn, then rounds
    kinds: tuple[str, ...]  # the question kind of each round, or nothing
    image: bytes | None  # the image's file, not yet decoded
    source: str = ""  # the data set it was taken from, if the record says

    @property
    def system(self) -> tuple[Turn, ...]:
        """The system turn, if there is one."""
        return self.turns[: len(self.turns) % 2]

    @property
    def rounds(self) -> list[tuple[Turn, Turn]]:
        """Question and answer of each round."""
        turns = self.turns[len(self.system) :]
        return list(zip(turns[::2], turns[1::2], strict=True))


def parse_sample(key: str, record: bytes, image: bytes | None) -> Sample:
    """Read a sample back from a shard.

    Raises:
        BadSampleError: the record is not a sample; packing would not have let it through.
    """
    try:
        fields = json.loads(record)
        turns = parse_turns(fields["conversations"])
        "".join(turn.text for turn in turns).encode()  # half a character, as JSON can escape it, is a ValueError
        if problem := problem_of(turns, image is not None):
            raise ValueError(problem)
        kinds = tuple(fields.get("kinds", ()))
        if kinds and 2 * len(kinds) != len(turns) - len(turns) % 2:
            raise ValueError(f"it has {len(kinds)} kinds for {len(turns) // 2} rounds")
    except (ValueError, KeyError, TypeError) as error:
        raise BadSampleError(f"sample {key} is not a conversation: {error}; pack it with `lit-avg shard`") from error
    return Sample(key, turns, kinds, image, str(fields.get("source", "")))


def parse_turns(conversation: Sequence[dict[str, Any]]) -> tuple[Turn, ...]:
    """Turns from LLaVA's list of `{"from", "value"}`.

    Raises:
        KeyError, TypeError: it is something else.
    """
    said = [(turn["from"], turn["value"]) for turn in conversation]
    if not all(isinstance(part, str) for turn in said for part in turn):
        raise TypeError("a turn's `from` and `value` must be text")
    return tuple(Turn(speaker, text) for speaker, text in said)


def problem_of(turns: tuple[Turn, ...], has_image: bool) -> str | None:
    """Why a conversation cannot be learned from, or None if it can."""
    speakers = [turn.speaker for turn in turns]
    if unknown := set(speakers) - set(SPEAKERS):
        return f"unknown speaker {', '.join(sorted(unknown))}"
    if "system" in speakers[1:]:
        return "a system turn that is not the first"
    rounds = turns[1:] if speakers[:1] == ["system"] else turns
    if not rounds or len(rounds) % 2:
        return f"{len(rounds)} turns, which is no whole number of rounds"
    if rounds[0].speaker != "human" or any(one.speaker == other.speaker for one, other in pairwise(rounds)):
        return "speakers that do not take turns, the human first"
    if any(not words_of(turn.text) for turn in rounds if turn.speaker == "gpt"):
        return "an empty answer"
    if any(not turn.text.strip() for turn in rounds):
        return "an empty question"
    return _problem_of_marks(turns, has_image)


def _problem_of_marks(turns: tuple[Turn, ...], has_image: bool) -> str | None:
    """Whether the image is marked once, in the first question, or nowhere."""
    marks = [turn.text.count(IMAGE_MARK) for turn in turns]
    first_question = len(turns) % 2
    if sum(marks) > has_image:
        return f"{sum(marks)} {IMAGE_MARK} for {int(has_image)} image"
    if has_image and not marks[first_question]:
        return f"no {IMAGE_MARK} in the first question"
    if any(IMAGE_MARK in words_of(turn.text) for turn in turns):
        return f"a second {IMAGE_MARK} around the first"
    return None
