"""In what two runs differ, read from what they left behind."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from lit_avg.result_names import ACCURACY, OUTCOMES, RESULT, TOKEN_SHARE, TOKENS_PER_TILE
from lit_avg.studies.report.numbers import bad_metric, bad_outcome, number
from lit_avg.studies.runs.run_record import read_record
from lit_avg.utils.errors import UserError
from lit_avg.utils.json_files import read_entries

HEADLINES = ("loss", ACCURACY.name, TOKENS_PER_TILE.name, TOKEN_SHARE.name)
"""The metrics that are shown unless all are asked for."""

_PLACES = ("run_root", "trainer.default_root_dir", "trainer.logger.init_args.save_dir", "seed_everything")
"""Entries of a config that say where a run lies, and its seed, which is told apart."""


@dataclass(frozen=True)
class RunSummary:
    """One of the two runs.

    Args:
        label: what the person called it.
        folder: of the run.
        result: its `result.json`.
        policy: the one that is compared, where a row was named; all if None.
    """

    label: str
    folder: Path
    result: Mapping[str, Any]
    policy: str | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """By name, without the policy if there is but one."""
        metrics: Mapping[str, object] = self.result.get("metrics", {})
        known = {name: found for name, value in metrics.items() if (found := number(value)) is not None}
        if self.policy is None:
            return known
        policy = f"{self.policy}/"
        return {name.removeprefix(policy): value for name, value in known.items() if name.startswith(policy)}


@dataclass(frozen=True)
class MetricPair:
    """A metric on both sides, None where it is no number; an interval of the difference where questions tell it."""

    name: str
    first: float | None
    second: float | None
    interval: tuple[float, float] | None

    @property
    def difference(self) -> float | None:
        """The second minus the first."""
        return None if self.first is None or self.second is None else self.second - self.first


def read_side(label: str, folder: Path, policy: str | None = None) -> RunSummary:
    """What a run's folder tells.

    Raises:
        UserError: it is no folder of a run that has ended, or its result cannot be read.
    """
    path = folder / RESULT
    if not path.is_file():
        raise UserError(f"{folder} has no {RESULT}; give the folder of a finished run, or --study and a run's name")
    return RunSummary(
        label, folder, read_entries(path, "bring it back, or remove it and test again", ("metrics",)), policy
    )


def problem_of(side: RunSummary) -> str | None:
    """What is no number in what a run has measured, in words; None if all are.

    Raises:
        UserError: its outcomes cannot be read.
    """
    path = side.folder / OUTCOMES
    return bad_metric(side.result.get("metrics", {})) or (bad_outcome(path) if path.is_file() else None)


def differing(first: Mapping[str, str], second: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Name, value here and value there of each entry that is not the same on both sides; `–` where it is missing."""
    names = dict.fromkeys([*first, *second])
    return [
        (name, first.get(name, "–"), second.get(name, "–")) for name in names if first.get(name) != second.get(name)
    ]


def config_of(side: RunSummary) -> dict[str, str]:
    """The resolved config, by dotted name."""
    flat = dict(_flat(side.result.get("config") or {}, ""))
    return {name: value for name, value in flat.items() if name not in _PLACES}


def environment_of(side: RunSummary) -> dict[str, str]:
    """With what and where a run was made."""
    result = side.result
    told = {"commit": result.get("commit"), "changes since the commit": bool(result.get("dirty"))}
    return dict(_flat(told | {name: result.get(name) or {} for name in ("versions", "machine")}, ""))


def origin_of(side: RunSummary) -> dict[str, str]:
    """What a run was made of."""
    record = read_record(side.folder)
    told = {name: side.result.get(name) for name in ("stage", "seed", "steps", "data", "questions")}
    told |= {
        "run id": record and record.identity,
        "policy": side.policy,
        "checkpoint": side.result.get("checkpoint") or {},
    }
    return dict(_flat({name: value for name, value in told.items() if value is not None}, ""))


def metric_pairs(first: RunSummary, second: RunSummary, every: bool) -> Iterator[MetricPair]:
    """The metrics of both sides.

    Args:
        first: the side that differences are counted from.
        second: the other.
        every: all of them, not just the headlines.
    """
    here, there = first.metrics, second.metrics
    for name in sorted({*here, *there}):
        if every or name.rpartition("/")[2] in HEADLINES:
            measured = name in here and name in there  # or else outcomes that lie there are another test's
            yield MetricPair(
                name, here.get(name), there.get(name), _interval(first, second, name) if measured else None
            )


def _interval(first: RunSummary, second: RunSummary, name: str) -> tuple[float, float] | None:
    """Of a policy's accuracy, if both sides say which questions were right."""
    policy, _, metric = ("", "", name) if first.policy is not None else name.partition("/")
    measured, _, kind = metric.partition("/")
    if measured != ACCURACY.name or policy == "val":
        return None
    from lit_avg.studies.report.bootstrap import paired_interval
    from lit_avg.studies.report.outcomes_csv import paired_differences, read_answers

    here, there = (read_answers(side.folder / OUTCOMES, side.policy or policy, kind) for side in (first, second))
    differences = None if here is None or there is None else paired_differences([(there, here)])
    if differences is None or (differences.images == differences.images[0]).all():
        return None
    return paired_interval(differences.values, differences.images)


def _flat(content: object, place: str) -> Iterator[tuple[str, str]]:
    """Nested entries by dotted name; lists of entries by number."""
    if isinstance(content, Mapping) and content:
        for name, value in cast(Mapping[str, object], content).items():
            yield from _flat(value, f"{place}.{name}" if place else str(name))
    elif isinstance(content, list) and any(isinstance(item, dict | list) for item in cast(list[object], content)):
        for number, item in enumerate(cast(list[object], content)):
            yield from _flat(item, f"{place}.{number}")
    elif place and content != {}:
        yield place, content if isinstance(content, str) else json.dumps(content)
