"""A record's conversation to turns that can be learned from, with what was left out on the way."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, cast

from datamodules.packing.names import RefusedError
from datamodules.shards.sample import Turn, parse_turns, problem_of
from lit_avg.inputs import IMAGE_MARK

_PICTURE = r"(image|img|picture|pic|photo)"
_MEDIA = re.compile(
    rf"({_PICTURE}|video|clip|audio|sound|speech|media|frame)s?\d*"
    r"((file)?(path|url|uri|src|name)|file|list|dir|folder|bytes|data|base64|b64)?s?\d*"
)
_ONE_PICTURE = re.compile(rf"{_PICTURE}((file)?(path|url|uri|src|name)|file)?")
"""Names of a record's entries, without `_`, `-` and capitals, that name media, or one image and how to come by it."""

_ID_OF_MEDIA = re.compile(rf"({_PICTURE}|video|clip|audio)s?ids?")
"""Those that name media by a number or the like: of a record with an image they tell more of that."""

_FIRST_ANSWER = "a leading answer left out"
_LAST_QUESTION = "a trailing question left out"
_EMPTY_ROUND = "an empty round left out"


def clean_turns(fields: dict[str, Any], has_image: bool, whole_rounds: bool) -> tuple[tuple[Turn, ...], list[str]]:
    """The turns of a record, and what was left out of them.

    Args:
        fields: the record.
        has_image: whether it is about an image.
        whole_rounds: leave out what is no round, as far as something is left.

    Raises:
        RefusedError: it is no conversation of whole rounds.
    """
    try:
        turns = parse_turns(fields["conversations"])
    except (KeyError, TypeError) as error:
        raise RefusedError(f"no conversation in LLaVA's form: {error!r}") from error
    prompt = fields.get("system")
    if isinstance(prompt, str) and prompt.strip() and (not turns or turns[0].speaker != "system"):
        turns = (Turn("system", prompt), *turns)
    if turns and turns[0].speaker == "system" and not turns[0].text.strip():
        turns = turns[1:]
    left_out: list[str] = []
    if whole_rounds and problem_of(turns, has_image):
        turns, left_out = _rounds_only(turns)
    if problem := problem_of(turns, has_image):
        raise RefusedError(problem)
    return turns, left_out


def image_name(fields: dict[str, Any]) -> str | None:
    """What the record calls its image; None if it has none.

    Raises:
        RefusedError: it has several, something that is no name, or media that are not read.
    """
    name = fields.get("image")
    if isinstance(name, list):
        names = cast(list[Any], name)
        if len(names) > 1:
            raise RefusedError("several images")
        name = names[0] if names else None
    for key in _other_media(fields, name):
        raise RefusedError(f"media named in `{key}`, which is not read: a record has one image, in `image`")
    if name is None or name == "":
        return None
    if not isinstance(name, str):
        raise RefusedError("an image that is not named by a path")
    return name


def _other_media(fields: dict[str, Any], image: Any) -> Iterator[str]:
    """The entries beside `image`, and those of single turns, that name media; not those that tell more of `image`."""
    for key, value in fields.items():
        plain = re.sub(r"[^a-z0-9]", "", key.lower())
        if not image and _ID_OF_MEDIA.fullmatch(plain) and value not in (None, "", []):
            yield key
        if key == "image" or not _names_something(value) or not _MEDIA.fullmatch(plain):
            continue
        if not image or not (value == [image] or (isinstance(value, str) and _ONE_PICTURE.fullmatch(plain))):
            yield key
    turns: Any = fields.get("conversations")
    for turn in cast(list[Any], turns) if isinstance(turns, list) else []:
        for key, value in cast(dict[str, Any], turn).items() if isinstance(turn, dict) else ():
            if _names_something(value) and _MEDIA.fullmatch(re.sub(r"[^a-z0-9]", "", key.lower())):
                yield f"conversations.{key}"


def _names_something(value: Any) -> bool:
    return isinstance(value, str | list | dict) and bool(cast(Any, value))


def _rounds_only(turns: tuple[Turn, ...]) -> tuple[tuple[Turn, ...], list[str]]:
    """Without a leading answer, a trailing question and rounds of which one turn is empty; marks are never left out."""
    left_out: list[str] = []
    system = turns[:1] if turns and turns[0].speaker == "system" else ()
    dialogue = turns[len(system) :]
    if len(dialogue) > 1 and dialogue[0].speaker == "gpt":
        dialogue, left_out = dialogue[1:], [_FIRST_ANSWER]
    if len(dialogue) > 1 and dialogue[-1].speaker == "human" and len(dialogue) % 2:
        dialogue, left_out = dialogue[:-1], [*left_out, _LAST_QUESTION]
    if len(dialogue) % 2:
        return turns, []
    rounds = list(zip(dialogue[::2], dialogue[1::2], strict=True))
    whole = [both for both in rounds if not _is_empty(both)]
    if len(whole) < len(rounds) and whole:
        dialogue = tuple(turn for both in whole for turn in both)
        left_out = [*left_out, *[_EMPTY_ROUND] * (len(rounds) - len(whole))]
    return (*system, *dialogue), left_out


def _is_empty(both: Sequence[Turn]) -> bool:
    question, answer = both
    if any(IMAGE_MARK in turn.text for turn in both):
        return False
    return not question.text.strip() or not answer.text.strip()
