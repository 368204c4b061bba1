"""What a row changes, and the runs that follow from it.

A row may lay overlays or values over some stages on the way to its run. Those stages, and what comes after them, become
runs of their own in a branch named by what is changed: `stage4@k=8/stage4`. All else is shared with the other rows.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lit_avg.errors import UserError


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

    @property
    def branch(self) -> str:
        """A folder name that says what is changed where, and nothing of the row, so that rows share what they can."""
        parts = [f"{overlay.parent.name}.{overlay.stem}" for overlay in self.overlays]
        parts += [f"{name.rpartition('.')[2]}={value}" for name, value in self.values]
        said = f"{'+'.join(self.stages)}@{'+'.join(parts)}"
        safe = re.sub(r"[^\w.=+@-]+", "-", said)[:80]
        return safe if safe == said else f"{safe}-{hashlib.sha256(said.encode()).hexdigest()[:6]}"


def branched(runs: dict[str, Run], end: str, change: Change) -> str:
    """Add to `runs` what a change makes of the way to the run `end`; the name of what `end` becomes.

    A store of feedback takes part in the changes of its readers, for it has to be theirs. If they do not concern what
    is stored, it will turn out to equal the store that is there already (`lit_avg.studies.identity.unified`).

    Raises:
        UserError: two different changes would share a folder.
    """
    new: dict[str, str] = {}
    way = way_to(runs, end)
    changed = {*change.stages, *(store for name in change.stages for store in runs[name].after if runs[store].feedback)}
    for name in [name for name in runs if name in way]:
        run, touched = runs[name], name in changed
        if not touched and not any(parent in new for parent in run.after):
            continue
        new[name] = f"{change.branch}/{run.stage}"
        known = runs.get(new[name])
        made = replace(
            run,
            name=new[name],
            configs=run.configs + (change.overlays if touched else ()),
            values=tuple((dict(run.values) | dict(change.values if touched else ())).items()),
            after=tuple(new.get(parent, parent) for parent in run.after),
            test=name == end or (known is not None and known.test),
        )
        if known is not None and (known.configs, known.values) != (made.configs, made.values):
            raise UserError(f"{made.name} would be two different runs; give one of the overlays another name")
        runs[made.name] = made
    return new[end]


def way_to(runs: Mapping[str, Run], end: str) -> set[str]:
    """A run and all that must be made before it."""
    return {end}.union(*(way_to(runs, parent) for parent in runs[end].after if parent in runs))
