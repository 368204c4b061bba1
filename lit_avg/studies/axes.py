"""Axes: rows that are written once, with `{axis}` in place of values, and become a row for each of these."""

import json
import re
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, cast

from lit_avg.studies.fields import Fields

_NAMED = re.compile(r"(?<!\$)\{(\w+)\}")
"""`{axis}`, but not `${key}`, which looks up a value of the config."""


def read_axes(content: Fields) -> dict[str, list[Any]]:
    """The values of each axis."""
    axes = content.take_mapping("axes", "lists of values")
    for name, values in axes.items():
        if not isinstance(values, list) or not values:
            content.complain(f"must be a list of values, but is {values!r}", f"axes.{name}")
    return {name: cast(list[Any], values) for name, values in axes.items() if isinstance(values, list)}


def refuse_unknown_axes(section: Fields, axes: Mapping[str, list[Any]]) -> None:
    """Complain about each `{axis}` in a row's name or entries that is none; without axes, braces are but braces."""
    there = ", ".join(f"{{{name}}}" for name in axes)
    named = _NAMED.findall(json.dumps((section.name, section.left), default=str)) if axes else []
    for name in dict.fromkeys(named):
        if name not in axes:
            section.complain(f"there is no axis {{{name}}}; there are {there}")


def combinations(axes: Mapping[str, list[Any]], content: object) -> Iterator[dict[str, Any]]:
    """Every combination of the values of those axes that some text in `content` names as `{axis}`."""
    text = json.dumps(content, default=str)
    used = [name for name in axes if f"{{{name}}}" in text]
    for values in product(*(axes[name] for name in used)):
        yield dict(zip(used, values, strict=True))


def substituted(content: Any, chosen: Mapping[str, Any]) -> Any:
    """`content` with each `{axis}`, not `${axis}`, replaced; a text that is nothing else becomes the value itself."""
    if isinstance(content, dict):
        return {
            substituted(key, chosen): substituted(value, chosen) for key, value in cast(dict[str, Any], content).items()
        }
    if isinstance(content, list):
        return [substituted(value, chosen) for value in cast(list[Any], content)]
    if not isinstance(content, str):
        return content
    for name, value in chosen.items():
        if content == f"{{{name}}}":
            return value
        content = re.sub(rf"(?<!\$)\{{{re.escape(name)}\}}", lambda _, value=value: str(value), content)
    return content
