"""Stored results that are none: a null, a text, a NaN or an infinity is no number, and a run that has one no result.

Looking through every `outcomes.csv` of a study of hundreds of runs takes longer than making its table. So what was
found is kept in `numbers.json` with the time that the file was written, and only new files are read.
"""

import csv
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from lit_avg.utils.atomic_io import write_whole, written
from lit_avg.utils.errors import UserError

FILE = "numbers.json"

NAMES = ("key", "kind", "image")
"""The columns of `outcomes.csv` that are no numbers."""

_SIGNS = (b"nan", b"NaN", b"NAN", b"inf", b"Inf", b"INF", b",,", b",\n", b",\r", b"null", b"None")
"""A file without any of these bytes has no number that is none."""


def number(value: object) -> float | None:
    """A stored value as a number, if it is one."""
    if type(value) is float:  # as nearly all are
        return value if math.isfinite(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def bad_metric(metrics: object) -> str | None:
    """What among a run's metrics is no number, in words; None if all are numbers."""
    if not isinstance(metrics, Mapping):
        return f"its metrics are {json.dumps(metrics)}"
    metrics = cast(Mapping[str, Any], metrics)
    with suppress(TypeError):
        if math.isfinite(sum(metrics.values())):  # a NaN and an infinity stay in a sum: hundreds at one stroke
            return None
    bad = [name for name, value in metrics.items() if number(value) is None]
    return f"{bad[0]} is {json.dumps(metrics[bad[0]])}" if bad else None


def bad_outcome(path: Path) -> str | None:
    """The same of the columns of an `outcomes.csv`, that are there.

    Raises:
        UserError: the file is not what a test writes.
    """
    content = path.read_bytes()
    if not any(sign in content for sign in _SIGNS):
        return None
    try:
        rows = [*csv.DictReader(content.decode().splitlines())]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not what a test writes; test again, or remove it") from error
    for row in rows:
        for name, text in row.items():
            if name not in NAMES and _parsed(text) is None:
                return f"{name} of question {row.get('key')} is {text or 'missing'} in {path.name}"
    return None


class KnownOutcomes:
    """What is wrong with the outcomes of a study's runs, each file read once.

    Args:
        folder: of the study.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._beginning = f"{folder}/"  # of the names of runs' files, so that the study may be moved
        self._before = _read(self.path)
        self._used = dict[str, list[Any]]()

    def bad(self, path: Path) -> str | None:
        """As `bad_outcome`; None where there is no file."""
        time = written(path)
        if time is None:
            return None
        name = str(path).removeprefix(self._beginning)
        known = self._before.get(name)
        self._used[name] = known if known and known[0] == [*time] else [[*time], bad_outcome(path)]
        return self._used[name][1]

    def keep(self) -> None:
        """Remember it for the next time, where the folder may be written to."""
        if any(self._before.get(name) != found for name, found in self._used.items()):
            with suppress(OSError):
                write_whole(self.path, json.dumps(self._before | self._used, indent=1) + "\n")


def _parsed(text: object) -> float | None:
    try:
        return number(float(str(text)))
    except ValueError:
        return None


def _read(path: Path) -> dict[str, list[Any]]:
    """What was kept; nothing if it cannot be read, since all of it can be found out anew."""
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    kept = cast(dict[str, object], content)
    return {name: cast(list[Any], found) for name, found in kept.items() if isinstance(found, list) and len(found) == 2}  # pyright: ignore[reportUnknownArgumentType]
