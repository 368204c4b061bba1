"""From a study to its runs: where each lives, which commands make it, and what decides its result.

A run is found by what people call it, too.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from lit_avg.result_names import RESULT
from lit_avg.studies.spec.fingerprint import code_hash, digest, read_checked
from lit_avg.studies.spec.overrides import Run
from lit_avg.studies.spec.study import Study
from lit_avg.utils.errors import UserError


@dataclass(frozen=True)
class PlannedRun:
    """One run with one seed.

    Args:
        name: the run's name in the study.
        seed: of everything random in it.
        directory: all it writes goes here.
        commands: what is called, in this order, each a list of arguments for `lit-avg`.
        identity: hash of all that decides its result: configs, values, data, seed, threads, the runs before.
        parents: folders of the runs before.
        needs: their identities.
        threads: CPU threads it computes with.
        links: what its configs look for elsewhere than where it lies: (where it is looked for, where it is).
        run: the run as the study says it.
        source: hash of what its files said when this was planned.
        out: the folder of all runs.
    """

    name: str
    seed: int
    directory: Path
    commands: tuple[tuple[str, ...], ...]
    identity: str
    parents: tuple[Path, ...]
    needs: tuple[str, ...]
    threads: int
    links: tuple[tuple[Path, Path], ...]
    run: Run
    source: str
    out: Path

    def __hash__(self) -> int:
        return hash((self.directory, self.identity))  # values of a run may be lists

    @cached_property
    def proof(self) -> Path:
        """The file without which the run has not been made."""
        return self.directory / ("manifest.json" if self.run.feedback else RESULT)

    @property
    def label(self) -> str:
        """What people see."""
        return f"{self.name} (seed {self.seed})"


def plan(study: Study) -> list[PlannedRun]:
    """Every run of a study, seed by seed, each after those it needs."""
    code = code_hash() if study.code else None
    planned: dict[tuple[str, int], PlannedRun] = {}
    for seed in study.seeds:
        for run in study.runs.values():
            parents = [planned[parent, seed] for parent in run.after]
            aliases = {name: alias for alias, name in run.links}
            decides: dict[str, Any] = {
                "config": study.digests[run.name],
                "seed": seed,
                "threads": study.threads,
                "code": code,
                "parents": {aliases.get(parent.name, parent.run.stage): parent.identity for parent in parents},
            }
            directory = run_directory(study, run.name, seed)
            planned[run.name, seed] = PlannedRun(
                name=run.name,
                seed=seed,
                directory=directory,
                commands=_commands(
                    run, directory, seed, [aliases.get(p.name, p.run.stage) for p in parents if p.run.feedback]
                ),
                identity=digest(decides),
                parents=tuple(parent.directory for parent in parents),
                needs=tuple(parent.identity for parent in parents),
                threads=study.threads,
                links=tuple((directory.parent / stage, run_directory(study, name, seed)) for stage, name in run.links),
                run=run,
                source=study.sources[run.name],
                out=study.runs_in or study.out,
            )
    return list(planned.values())


def unchecked(study: Study, runs: Iterable[PlannedRun]) -> str:
    """What to do where configs are not those that a sweep has checked, and nobody knows what is done; or nothing."""
    checked = read_checked(study.out)
    if all(run.source in checked for run in runs):
        if all(checked[source].holds() for source in {run.source for run in runs}):
            return ""
        return f"data was changed, or copied: `lit-avg sweep {study.path} --dry-run` tells what is done"
    return f"configs were changed, or never checked: `lit-avg sweep {study.path} --dry-run` tells what is done"


def run_directory(study: Study, run: str, seed: int) -> Path:
    """Where a run lives: `<out>/seed-<n>/<run>`, or beside those of other studies in `runs_in`."""
    return Path(study.runs_in or study.out, f"seed-{seed}", run)


def value_arguments(run: Run) -> list[str]:
    """The values that a study lays over a run's configs, as the command line takes them."""
    as_text = {name: value if isinstance(value, str) else json.dumps(value) for name, value in run.values}
    pairs = [(f"--{name}", text) for name, text in as_text.items()]
    # what begins with a dash must be tied to its option, or it would be taken for one
    return [part for name, text in pairs for part in ([f"{name}={text}"] if text[:1] == "-" else [name, text])]


def _commands(run: Run, directory: Path, seed: int, stores: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """What makes a run; `stores` are the names by which it finds the feedback it is trained from."""
    configs = [part for config in run.configs for part in ("--config", str(config))]
    shared = [*configs, "--run_root", str(directory.parent), "--trainer.default_root_dir", str(directory)]
    shared += ["--seed_everything", str(seed), *value_arguments(run)]
    if run.feedback:
        return (("feedback", *shared, "--out", str(directory)),)
    shared += [part for store in stores for part in ("--model.init_args.feedback", str(directory.parent / store))]
    fit = ("fit", *shared, "--resume", "auto")
    return (fit, ("test", *shared)) if run.test else (fit,)


def split_seed(study: Study, name: str) -> tuple[str, int | None]:
    """A name and the seed that may stand behind it, as in `stage4:1`, or `stage4 (seed 1)` as a status shows it."""
    names = {*study.runs, *(row.name for row in study.rows)}
    match = None if name in names else re.fullmatch(r"(.+?)(?::(\d+)| \(seed (\d+)\))", name)
    return (match[1], int(match[2] or match[3])) if match else (name, None)


def named_run(study: Study, name: str, seed: int | None = None) -> PlannedRun:
    """A run by its own name or by that of a row that it makes.

    Args:
        study: has the run.
        name: as in the study; where a run and a row have the same name, the run is meant.
        seed: one of the study's; its first if not given.

    Raises:
        UserError: there is no such run.
    """
    seed = study.seeds[0] if seed is None else seed
    if seed not in study.seeds:
        raise UserError(f"{study.path} has no seed {seed}; its seeds are {', '.join(map(str, study.seeds))}")
    wanted = name if name in study.runs else {row.name: row.run for row in study.rows}.get(name, name)
    matches = [run for run in plan(study) if (run.name, run.seed) == (wanted, seed)]
    if not matches:
        names = [*study.runs, *(row.name for row in study.rows)]
        meant = get_close_matches(name, names, n=1)
        hint = f"did you mean {meant[0]}?" if meant else f"there are {', '.join(study.runs)}"
        raise UserError(f"{study.path} has no run {name}; {hint}")
    return matches[0]
