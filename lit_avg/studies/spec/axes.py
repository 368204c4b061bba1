"""Axes: rows that are written once, with `{axis}` in place of values, and become a row for each of these."""

import json
import re
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, cast

from lit_avg.studies.spec.validation import Fields, Mistake

_NAMED = re.compile(r"(?<!\$)\{(\w+)\}")
"""`{axis}`, but not `${key}`, which looks up a value of the config."""


def read_axes(content: Fields) -> dict[str, list[Any]]:
    """The values of each axis."""
    said = content.take_mapping("axes", "lists of values")
    axes = {name: cast(list[Any], values) for name, values in said.items() if isinstance(values, list) and values}
    for name in said.keys() - axes.keys():
        content.complain(f"must be a list of values, but is {said[name]!r}", f"axes.{name}")
    for name, values in axes.items():
        if any(value in values[:place] for place, value in enumerate(values)):
            content.complain("each value may be there once", f"axes.{name}")
    return axes


def refuse_unknown_axes(section: Fields, axes: Mapping[str, list[Any]]) -> None:
    """Complain about each `{axis}` in a row's name or entries that is none."""
    there = ", ".join(f"{{{name}}}" for name in axes)
    for name in dict.fromkeys(_NAMED.findall(_text(section.name, section.left))):
        if name not in axes:
            hint = f"there are {there}" if axes else f"give its values, as in `axes: {{{name}: [1, 2]}}`"
            section.complain(f"there is no axis {{{name}}}; {hint}")


def refuse_axes_in_runs(runs: object, axes: Mapping[str, list[Any]], errors: list[Mistake]) -> None:
    """Complain about each `{axis}` in a run: nobody would fill it in."""
    for name, run in cast(dict[str, Any], runs).items() if isinstance(runs, dict) else ():
        for axis in dict.fromkeys(_NAMED.findall(_text(name, run))):
            if axis in axes:
                errors.append(
                    Mistake(f"runs.{name}", f"{{{axis}}} is filled in in rows alone; say it in a row's `set`")
                )


def combinations(axes: Mapping[str, list[Any]], content: object) -> Iterator[dict[str, Any]]:
    """Every combination of the values of those axes that some text in `content` names as `{axis}`."""
    text = _text(content)
    used = [name for name in axes if _place_of(name).search(text)]
    for values in product(*(axes[name] for name in used)):
        yield dict(zip(used, values, strict=True))


def substituted(content: Any, chosen: Mapping[str, Any]) -> Any:
    """`content` with each `{axis}`, not `${axis}`, replaced; a text that is nothing else becomes the value itself."""
    if isinstance(content, dict):
        return {
            str(substituted(key, chosen)): substituted(value, chosen)
            for key, value in cast(dict[str, Any], content).items()
        }
    if isinstance(content, list):
        return [substituted(value, chosen) for value in cast(list[Any], content)]
    if not isinstance(content, str):
        return content
    for name, value in chosen.items():
        if content == f"{{{name}}}":
            return value
        content = _place_of(name).sub(lambda _, value=value: str(value), content)
    return content


def _place_of(axis: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\$)\{{{re.escape(axis)}\}}")


def _text(*content: object) -> str:
    return json.dumps(content, default=str, ensure_ascii=False)
