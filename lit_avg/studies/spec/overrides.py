"""What a row changes, and the runs that follow from it.

A row may lay overlays or values over some stages on the way to its run. Those stages, and what comes after them, become
runs of their own in a branch named by what is changed: `stage4@k=8/stage4`. All else is shared with the other rows.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lit_avg.utils.errors import UserError
from lit_avg.utils.hashing import hash_of


@dataclass(frozen=True)
class Run:
    """One stage with one config, made once per seed; its name is also that of its folder.

    Args:
        name: as other runs' `after` and rows call it; `<branch>/<stage>` for what a row has changed.
        configs: config files, the later overlaying the earlier.
        after: runs that must be finished before.
        test: whether the test split is evaluated after training, as every run in a row of the table must be.
        values: single values laid over the configs, by dotted name.
        feedback: it trains nothing, but stores the feedback that the routers after it are trained from.
        links: of `after`, what this run's configs find as `${run_root}/<name>` but which lies elsewhere: (name, run).
    """

    name: str
    configs: tuple[Path, ...]
    after: tuple[str, ...] = ()
    test: bool = False
    values: tuple[tuple[str, Any], ...] = ()
    feedback: bool = False
    links: tuple[tuple[str, str], ...] = ()

    @property
    def stage(self) -> str:
        """What the configs of those after it call it."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True)
class Change:
    """What a row lays over which stages.

    Args:
        overlays: config files.
        values: single values, by dotted name.
        stages: names of runs.
    """

    overlays: tuple[Path, ...]
    values: tuple[tuple[str, Any], ...]
    stages: tuple[str, ...]

    def branch(self, whole: bool = False) -> str:
        """A folder name that says what is changed where, and nothing of the row, so that rows share what they can.

        Args:
            whole: with the values' whole names, not just their last parts, and the overlays' folders.
        """
        parts = [f"{overlay.parent if whole else overlay.parent.name}.{overlay.stem}" for overlay in self.overlays]
        parts += [f"{name if whole else name.rpartition('.')[2]}={value}" for name, value in self.values]
        said = f"{'+'.join(self.stages)}@{'+'.join(parts)}"
        safe = re.sub(r"[^\w.=+@-]+", "-", said)[:80]
        return safe if safe == said else f"{safe}-{hash_of(said, 6)}"


def apply_overrides(runs: dict[str, Run], end: str, change: Change) -> str:
    """Add to `runs` what a change makes of the way to the run `end`; the name of what `end` becomes.

    A store of feedback takes part in the changes of its readers, for it has to be theirs. If they do not concern what
    is stored, it will turn out to equal the store that is there already, see
    `lit_avg.studies.spec.fingerprint.deduplicate_runs`.

    Raises:
        UserError: two different changes would share a folder.
    """
    short, whole = (_branch(runs, end, change, change.branch(whole)) for whole in (False, True))
    for made in (short, whole):
        if all((known := runs.get(run.name)) is None or _same(known, run) for run in made):
            runs.update({run.name: run for run in made})
            return made[-1].name
    raise UserError(f"{whole[-1].name} would be two different runs; change one of them otherwise")


def _same(known: Run, run: Run) -> bool:
    return (known.configs, known.values) == (run.configs, run.values)


def _branch(runs: Mapping[str, Run], end: str, change: Change, branch: str) -> list[Run]:
    """The runs on the way to `end` that are others for a change, `end` last."""
    new: dict[str, Run] = {}
    way = ancestors(runs, end)
    changed = {*change.stages, *(store for name in change.stages for store in runs[name].after if runs[store].feedback)}
    for name in [name for name in runs if name in way]:
        run, touched = runs[name], name in changed
        if not touched and not any(parent in new for parent in run.after):
            continue
        place = f"{branch}/{run.stage}"
        known = runs.get(place)
        new[name] = replace(
            run,
            name=place,
            configs=run.configs + (change.overlays if touched else ()),
            values=tuple((dict(run.values) | dict(change.values if touched else ())).items()),
            after=tuple(new[parent].name if parent in new else parent for parent in run.after),
            test=name == end or (known is not None and known.test),
        )
    return [*(run for name, run in new.items() if name != end), new[end]]


def ancestors(runs: Mapping[str, Run], end: str) -> set[str]:
    """A run and all that must be made before it, also where some wait for each other."""
    way, ahead = set[str](), [end]
    while ahead:
        name = ahead.pop()
        if name in runs and name not in way:
            way.add(name)
            ahead += runs[name].after
    return way
