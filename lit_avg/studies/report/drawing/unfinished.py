"""What a figure cannot show yet, in words."""

from collections.abc import Iterable

from lit_avg.studies.report.results import Results
from lit_avg.studies.spec.study import Row, Study

NAMED = 6
"""How many rows the foot of a figure names; `lit-avg figures` names all."""


def unfinished(study: Study, results: Results, rows: Iterable[Row]) -> list[str]:
    """Those of the rows that miss seeds: `k = 8 (1 of 3 seeds)`."""
    seeds = len(study.seeds)
    missing = [(row.name, len(results[row.run])) for row in rows if len(results[row.run]) < seeds]
    return [f"{name} ({count} of {seeds} {'seed' if seeds == 1 else 'seeds'})" for name, count in missing]


def footnote(study: Study, results: Results, rows: Iterable[Row]) -> str:
    """The same as one line for the foot of a figure; empty where all is finished."""
    missing = unfinished(study, results, rows)
    if not missing:
        return ""
    more = [f"and {len(missing) - NAMED} more"] if len(missing) > NAMED else []
    return f"not finished: {', '.join([*missing[:NAMED], *more])}"
