"""The study file: which runs, after which others, and which rows and columns they become.

One YAML is both the sweep and the table, so the two cannot drift apart:

    out: runs/quickstart                 # where runs, table and figures go
    seeds: [0]
    runs:
      stage3: {configs: [../jersey/stage3.yaml], after: [stage2]}
      stage4: {configs: [../jersey/stage4.yaml], after: [stage3], test: true}
    rows:
      router: {run: stage4, policy: router}
    columns: [accuracy, token_share]
    reference: router

`extends: other.yaml` starts from another study, whose runs and rows it adds to and whose other keys it replaces.
Configs are found from the study file that names them, `out` from where the command is called.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, cast

from lit_avg.errors import UserError
from lit_avg.studies.fields import Fields, read_yaml


@dataclass(frozen=True)
class Run:
    """One stage with one config, made once per seed; its name is also that of its folder.

    Args:
        name: as other runs' `after` and rows call it.
        configs: config files, the later overlaying the earlier.
        after: runs that must be finished before.
        test: whether the test split is evaluated after training, as every run in a row of the table must be.
    """

    name: str
    configs: tuple[Path, ...]
    after: tuple[str, ...] = ()
    test: bool = False


@dataclass(frozen=True)
class Row:
    """One row of the table: a run, and the policy by which it chooses granularities on the test split."""

    name: str
    run: str
    policy: str


@dataclass(frozen=True)
class Study:
    """Rows x seeds that make one table.

    Args:
        path: the study file.
        out: folder of the runs, the table and the figures.
        seeds: each run is made once with each.
        runs: in an order in which they can be made, by name.
        rows: in the order of the table.
        columns: names of metrics, without the policy.
        reference: the row that the others are compared with, if any.
        threads: CPU threads of one run; part of what decides its result.
    """

    path: Path
    out: Path
    seeds: tuple[int, ...]
    runs: Mapping[str, Run]
    rows: tuple[Row, ...]
    columns: tuple[str, ...]
    reference: str | None = None
    threads: int = 1


def load_study(path: str | Path) -> Study:
    """Read a study file and check all of it before anything is run.

    Raises:
        UserError: names every mistake in the file at once.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    errors: list[str] = []
    content = Fields(_with_base(path, errors), "", errors)
    runs = {run.name: run for run in (_run(fields) for fields in content.take_sections("runs"))}
    rows = tuple(_row(fields) for fields in content.take_sections("rows"))
    study = Study(
        path=path,
        out=Path(content.take("out", str, "a folder") or "."),
        seeds=tuple(content.take_list("seeds", int, "whole numbers")),
        runs=_in_order(runs, errors),
        rows=rows,
        columns=tuple(content.take_list("columns", str, "names of metrics")),
        reference=content.take("reference", str, "the name of a row", optional=True),
        threads=content.take("threads", int, "a whole number", optional=True) or 1,
    )
    content.refuse_the_rest()
    errors += _broken_references(study)
    if errors:
        raise UserError("\n".join([f"{path} has {len(errors)} mistake(s):", *(f"  {error}" for error in errors)]))
    return study


def _run(fields: Fields) -> Run:
    run = Run(
        name=fields.name,
        configs=tuple(Path(config) for config in fields.take_list("configs", str, "config files")),
        after=tuple(fields.take_list("after", str, "names of runs", optional=True)),
        test=bool(fields.take("test", bool, "true or false", optional=True)),
    )
    fields.refuse_the_rest()
    for config in run.configs:
        if not config.is_file():
            fields.complain(f"there is no config file {config}")
    return run


def _row(fields: Fields) -> Row:
    run = fields.take("run", str, "the name of a run") or ""
    policy = fields.take("policy", str, "the name of a policy") or ""
    fields.refuse_the_rest()
    return Row(fields.name, run, policy)


def _broken_references(study: Study) -> list[str]:
    """What names something that is not there."""
    broken = [
        f"runs.{run.name}.after: there is no run {parent!r}"
        for run in study.runs.values()
        for parent in run.after
        if parent not in study.runs
    ]
    for row in study.rows:
        if row.run not in study.runs:
            broken.append(f"rows.{row.name}.run: there is no run {row.run!r}")
        elif not study.runs[row.run].test:
            broken.append(f"rows.{row.name}.run: {row.run} is never tested; say `test: true` in runs.{row.run}")
    if study.reference is not None and study.reference not in {row.name for row in study.rows}:
        broken.append(f"reference: there is no row {study.reference!r}")
    if len(set(study.seeds)) < len(study.seeds):
        broken.append("seeds: each may be there once")
    if study.threads < 1:
        broken.append(f"threads: must be at least 1, but is {study.threads}")
    return broken


def _in_order(runs: Mapping[str, Run], errors: list[str]) -> dict[str, Run]:
    """The runs, each after those it needs."""
    try:
        order = TopologicalSorter({run.name: run.after for run in runs.values()}).static_order()
        return {name: runs[name] for name in order if name in runs}
    except CycleError as error:
        errors.append(f"runs: each waits for the other: {' -> '.join(cast(list[str], error.args[1]))}")
        return dict(runs)


def _with_base(path: Path, errors: list[str]) -> dict[str, Any]:
    """The file's content over that of the study it extends."""
    content = _with_own_paths(path)
    if (extends := content.pop("extends", None)) is None:
        return content
    base_path = path.parent / str(extends)
    if not base_path.is_file():
        errors.append(f"extends: there is no study {base_path}")
        return content
    base = _with_own_paths(base_path)
    if "extends" in base:
        errors.append(f"extends: {base_path} extends a study itself; extend that one directly")
    for section in ("runs", "rows"):
        if isinstance(base.get(section), dict) and isinstance(content.get(section), dict):
            content[section] = base[section] | content[section]
    return base | content


def _with_own_paths(path: Path) -> dict[str, Any]:
    """The file's content, its configs found from the file itself."""
    content = read_yaml(path)
    runs = content.get("runs")
    for run in cast(dict[str, Any], runs).values() if isinstance(runs, dict) else ():
        if isinstance(run, dict) and isinstance(configs := cast(dict[str, Any], run).get("configs"), list):
            run["configs"] = [os.path.normpath(path.parent / str(name)) for name in cast(list[object], configs)]
    return content
