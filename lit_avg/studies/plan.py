"""From a study to its runs: where each lives, which commands make it, and what decides its result."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from lit_avg.studies.fields import read_yaml
from lit_avg.studies.study import Run, Study

DEFAULTS = Path(__file__).resolve().parents[2] / "experiments" / "base.yaml"
"""What every run's config starts from."""


@dataclass(frozen=True)
class PlannedRun:
    """One run with one seed.

    Args:
        name: the run's name in the study.
        seed: of everything random in it.
        directory: all it writes goes here.
        commands: what is called, in this order, each a list of arguments for `lit-avg`.
        identity: hash of all that decides its result: the configs' content, the seed, the threads, the runs before.
        parents: folders of the runs before.
        threads: CPU threads it computes with.
    """

    name: str
    seed: int
    directory: Path
    commands: tuple[tuple[str, ...], ...]
    identity: str
    parents: tuple[Path, ...]
    threads: int

    @property
    def label(self) -> str:
        """What people see."""
        return f"{self.name} (seed {self.seed})"


def plan(study: Study) -> list[PlannedRun]:
    """Every run of a study, seed by seed, each after those it needs."""
    content = cache(_content)  # most runs share their config files
    planned: dict[tuple[str, int], PlannedRun] = {}
    for seed in study.seeds:
        for run in study.runs.values():
            parents = [planned[parent, seed] for parent in run.after]
            decides: dict[str, Any] = {
                "configs": [content(config) for config in (DEFAULTS, *run.configs)],
                "seed": seed,
                "threads": study.threads,
                "test": run.test,
                "parents": {parent.name: parent.identity for parent in parents},
            }
            planned[run.name, seed] = PlannedRun(
                name=run.name,
                seed=seed,
                directory=run_directory(study, run.name, seed),
                commands=_commands(study, run, seed),
                identity=_digest(decides),
                parents=tuple(parent.directory for parent in parents),
                threads=study.threads,
            )
    return list(planned.values())


def run_directory(study: Study, run: str, seed: int) -> Path:
    """Where a run lives: `<out>/seed-<n>/<run>`."""
    return study.out / f"seed-{seed}" / run


def _commands(study: Study, run: Run, seed: int) -> tuple[tuple[str, ...], ...]:
    directory = run_directory(study, run.name, seed)
    shared = [argument for config in run.configs for argument in ("--config", str(config))]
    shared += ["--run_root", str(directory.parent), "--trainer.default_root_dir", str(directory)]
    shared += ["--seed_everything", str(seed)]
    fit = ("fit", *shared, "--resume", "auto")
    return (fit, ("test", *shared)) if run.test else (fit,)


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _content(config: Path) -> list[dict[str, Any]]:
    """What a config file says, and what the files that it names say; comments do not count."""
    content = read_yaml(config)
    named = [config.parent / text for text in _texts(content) if text.endswith((".yaml", ".yml"))]
    return [content, *(part for path in named if path.is_file() for part in _content(path))]


def _texts(content: object) -> Iterator[str]:
    """Every string value in nested YAML."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        for value in cast(dict[object, object], content).values():
            yield from _texts(value)
    elif isinstance(content, list):
        for value in cast(list[object], content):
            yield from _texts(value)
