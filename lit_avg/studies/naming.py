"""Finding a run by what people call it."""

import re
from difflib import get_close_matches

from lit_avg.errors import UserError
from lit_avg.studies.plan import PlannedRun, plan
from lit_avg.studies.study import Study


def split_seed(study: Study, name: str) -> tuple[str, int | None]:
    """A name and the seed that may stand behind it, as in `stage4:1`, or `stage4 (seed 1)` as a status shows it."""
    known = {*study.runs, *(row.name for row in study.rows)}
    found = None if name in known else re.fullmatch(r"(.+?)(?::(\d+)| \(seed (\d+)\))", name)
    return (found[1], int(found[2] or found[3])) if found else (name, None)


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
    found = [run for run in plan(study) if (run.name, run.seed) == (wanted, seed)]
    if not found:
        names = [*study.runs, *(row.name for row in study.rows)]
        meant = get_close_matches(name, names, n=1)
        hint = f"did you mean {meant[0]}?" if meant else f"there are {', '.join(study.runs)}"
        raise UserError(f"{study.path} has no run {name}; {hint}")
    return found[0]
