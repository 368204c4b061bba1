"""Studies with results that nobody has trained for: run folders in the project's own form."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from lit_avg.result_names import RESULT
from lit_avg.studies.runs.plan import PlannedRun, plan
from lit_avg.studies.runs.run_record import Record, write_record
from lit_avg.studies.spec.study import Study, load_study
from lit_avg.utils.atomic_io import write_whole

Metrics = Mapping[str, float]
LEVELS = (4, 8, 16, 32, 64)
KINDS = ("number", "jersey", "place", "brightest", "crowd")

ROUTER = {"run": "stage4", "policy": "router"}
FIXED = {f"fixed {tokens}": {"run": "stage4", "policy": f"fixed {tokens}"} for tokens in LEVELS}
GRID = {"k {k}, alpha {alpha}": ROUTER | {"set": {"k": "{k}", "alpha": "{alpha}"}}}
CHOICES = {"number": {4: 0.25, 64: 0.75}, "crowd": {4: 1.0, 64: 0.0}}


def made_up_study(folder: Path, **content: object) -> Study:
    """A study of one run, `stage4`, that is tested."""
    (folder / "stage4.yaml").write_text("model: toy\n")
    said: dict[str, object] = {
        "out": str(folder / "out"),
        "seeds": [0],
        "runs": {"stage4": {"configs": ["stage4.yaml"], "test": True}},
        "columns": ["accuracy", "token_share"],
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(said | content, sort_keys=False))
    return load_study(path)


def finish(study: Study, metrics: Callable[[PlannedRun], Metrics | None]) -> None:
    """Leave each run as a sweep does that has made it; those without metrics stay undone."""
    for run in plan(study):
        measured = metrics(run)
        if measured is None:
            continue
        result = {"metrics": measured, "commit": "0123456789abcdef", "dirty": False, "data": "da7a", "seed": run.seed}
        write_whole(run.directory / RESULT, json.dumps(result))
        write_record(run.directory, Record(run.identity, tuple(command[0] for command in run.commands)))


def router_metrics(accuracy: float, share: float, selected: Mapping[str, Mapping[int, float]] | None = None) -> Metrics:
    """What a test says of a router, and of the fixed levels it is compared with."""
    metrics = {"router/accuracy": accuracy, "router/token_share": share}
    for kind, by_level in (selected or {}).items():
        metrics |= {f"router/selected/{kind}/{tokens}": part for tokens, part in by_level.items()}
    for place, tokens in enumerate(LEVELS):
        metrics |= {f"fixed {tokens}/accuracy": 0.85 + 0.02 * place, f"fixed {tokens}/token_share": tokens / 64}
        metrics |= {f"fixed {tokens}/accuracy/{kind}": 0.8 + 0.01 * place * n for n, kind in enumerate(KINDS)}
    return metrics


def grid_study(folder: Path, **content: object) -> Study:
    """An accuracy of 50 + k - 10 alpha percent, plus or minus one over three seeds."""
    axes = {"k": [0, 8, 32], "alpha": [0.1, 1.0]}
    said = {"axes": axes, "seeds": [0, 1, 2], "rows": GRID | FIXED, "reference": "fixed 64"}
    return made_up_study(folder, **said | content)


def grid_metrics(run: PlannedRun) -> Metrics:
    values = dict(run.run.values)
    accuracy = (50 + values.get("k", 0) - 10 * values.get("alpha", 0) + run.seed - 1) / 100
    return router_metrics(accuracy, 0.5, CHOICES)
