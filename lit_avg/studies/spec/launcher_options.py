"""The study file's `launcher:`, which class does its runs, and `slurm:`, what a run asks of a cluster."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lit_avg.studies.spec.validation import Fields


@dataclass(frozen=True)
class LauncherConfig:
    """Which launcher does the runs.

    Args:
        class_path: the class, as `my_module.MyLauncher`, or the short name of one that ships.
        init_args: its arguments, besides the study.
    """

    class_path: str
    init_args: Mapping[str, Any] = field(default_factory=dict[str, Any])


def read_launcher(content: Fields) -> LauncherConfig | None:
    """Take `launcher:` out of a study: a class path alone, or one with `init_args`; what is wrong is noted there."""
    meaning = "the path of a class, such as my_module.MyLauncher"
    if not isinstance(content.left.get("launcher", ""), dict):
        class_path = content.take("launcher", str, meaning, optional=True)
        return None if class_path is None else LauncherConfig(class_path)
    fields = content.take_section("launcher")
    config = LauncherConfig(
        fields.take("class_path", str, meaning) or "", fields.take_mapping("init_args", "arguments")
    )
    fields.refuse_the_rest()
    return config


@dataclass(frozen=True)
class SlurmOptions:
    """What each job asks for.

    Args:
        partition: where it runs.
        account: who pays.
        time: its limit in minutes, or as `4:00:00` or `1-12`; a run that needs longer is requeued and goes on.
        nodes: machines.
        tasks: processes on each of them; those of a training must be as many as its devices.
        gpus: on each of them.
        cpus: for each process.
        memory: of each machine, in GB.
        signal: seconds before the limit at which a run is told to save itself and make room.
        setup: shell commands before the run.
    """

    partition: str | None = None
    account: str | None = None
    time: int = 60
    nodes: int = 1
    tasks: int = 1
    gpus: int | None = None
    cpus: int = 1
    memory: int | None = None
    signal: int = 90
    setup: tuple[str, ...] = ()


_TIMES = "whole minutes, or a time as 4:00:00 or 1-12"

_TIME = re.compile(r"(\d+):([0-5]\d):([0-5]\d)|(\d+)-([01]?\d|2[0-3])(?::([0-5]\d)(?::([0-5]\d))?)?")
"""SLURM's hours:minutes:seconds, and days-hours with or without more; its minutes:seconds would be taken for hours."""


def read_slurm_options(fields: Fields) -> SlurmOptions:
    """Take `slurm:` apart; what is wrong with it is noted in `fields`."""

    def number(key: str, default: int | None, least: int = 1) -> int | None:
        value = fields.take(key, int, "a whole number", optional=True)
        if value is not None and value < least:
            fields.complain(f"must be at least {least}, but is {value}", key)
            return default
        return default if value is None else value

    def count(key: str, default: int, least: int = 1) -> int:
        return number(key, default, least) or default

    def text(key: str) -> str | None:
        return fields.take(key, str, "a name", optional=True)

    options = SlurmOptions(
        partition=text("partition"),
        account=text("account"),
        time=_minutes(fields),
        nodes=count("nodes", 1),
        tasks=count("tasks", 1),
        gpus=number("gpus", None, least=0),
        cpus=count("cpus", 1),
        memory=number("memory", None),
        signal=count("signal", 90),
        setup=tuple(fields.take_list("setup", str, "shell commands", optional=True)),
    )
    fields.refuse_the_rest()
    if options.signal >= options.time * 60:
        fields.complain(f"{options.signal} seconds before the end of {options.time} minute(s) is too early", "signal")
    return options


def _minutes(fields: Fields) -> int:
    """The time limit; begun minutes count."""
    given = fields.left.get("time")
    if not isinstance(given, str):
        minutes = fields.take("time", int, _TIMES, optional=True)
    else:
        fields.take("time", str, _TIMES)
        if (parts := _TIME.fullmatch(given.strip())) is None:
            fields.complain(f"must be {_TIMES}, but is {given!r}", "time")
            return 60
        hours, minutes, seconds, days, *more = (int(part or 0) for part in parts.groups())
        hours, minutes, seconds = (
            first + second for first, second in zip((hours, minutes, seconds), more, strict=True)
        )
        minutes += (days * 24 + hours) * 60 + math.ceil(seconds / 60)
    if minutes is not None and minutes < 1:
        fields.complain(f"must be at least a minute, but is {given!r}", "time")
    return 60 if minutes is None else max(minutes, 1)
