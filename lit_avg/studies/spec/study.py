"""The study file: which runs, after which others, and which rows and columns they become.

One YAML is both the sweep and the table, so the two cannot drift apart:

    out: runs/quickstart                 # where runs, table and figures go
    seeds: [0]
    axes: {k: [0, 8, 32]}                # `{k}` in a row makes one row for each
    runs:
      stage3: {configs: [../jersey/stage3.yaml], after: [stage2]}
      feedback: {configs: [../jersey/stage4.yaml], after: [stage3], feedback: true}
      stage4: {configs: [../jersey/stage4.yaml], after: [stage3, feedback], test: true}
    rows:
      router: {run: stage4, policy: router, paper: {accuracy: 0.711}}    # shown beside ours
      three levels: {run: stage4, policy: router, overlays: [three_levels.yaml], stages: [stage3, stage4]}
      "k {k}": {run: stage4, policy: router, set: {model.init_args.model.init_args.k: "{k}"}}
    columns: [accuracy, token_share]
    reference: router

A run with `feedback: true` stores what the LMM thinks of each granularity; routers after it train from that, and rows
that change nothing of it share it. `extends: other.yaml` starts from another study, whose runs and rows it adds to and
whose other keys it replaces; with `runs_in: folder`, studies share their runs there. `launcher` is what does the runs,
`slurm` what a job asks for. Configs are found from the file that names them, `out` from where the command is called.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, cast

from lit_avg.result_names import METRICS, ORACLE, MetricMeaning
from lit_avg.studies.spec.axes import combinations, read_axes, refuse_axes_in_runs, refuse_unknown_axes, substituted
from lit_avg.studies.spec.columns import column_mistakes, take_paper
from lit_avg.studies.spec.config_files import config_content, study_content
from lit_avg.studies.spec.fingerprint import (
    contributions,
    deduplicate_runs,
    digest,
    informed,
    measured,
    read_checked,
)
from lit_avg.studies.spec.launcher_options import LauncherConfig, SlurmOptions, read_launcher, read_slurm_options
from lit_avg.studies.spec.overrides import Change, Run, ancestors, apply_overrides
from lit_avg.studies.spec.validation import Fields, Mistake
from lit_avg.utils.errors import UserError
from lit_avg.utils.yaml_reader import located


@dataclass(frozen=True)
class Row:
    """One row of the table: a run, and the policy by which it chooses granularities on the test split.

    Args:
        name: as in the study, axes filled in.
        run: the run's name.
        policy: the policy's name.
        paper: the paper's number for a column, in the column's own unit, where there is one.
        axes: the value of each axis it was made for.
        template: the name before its axes were filled in, which rows that differ in axes alone have in common.
        reference: the row that this one is compared with, if not with the study's.
    """

    name: str
    run: str
    policy: str
    paper: Mapping[str, float] = field(default_factory=dict[str, float])
    axes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    template: str = ""
    reference: str | None = None


@dataclass(frozen=True)
class Study:
    """Rows x seeds that make one table.

    Args:
        path: the study file.
        out: folder of the table and the figures, and of the runs.
        runs_in: another folder of the runs, which several studies may share.
        seeds: each run is made once with each.
        runs: in an order in which they can be made, by name.
        rows: in the table's order.
        columns: names of metrics, without the policy.
        reference: the row that the others are compared with, if any; a row may name another for itself.
        paper: what the paper's numbers in the rows were measured on.
        threads: CPU threads of one run; part of what decides its result.
        code: whether the program's source decides results too.
        launcher: which class does the runs, if not that of `--launcher`.
        slurm: what the launcher `slurm` asks of the cluster.
        files: the study file and the one it extends.
        digests: what each run's own configs and data contribute to its identity.
        sources: hash of what each run's configs and values say.
        metrics: what those of the tests mean, as far as the configs have been checked.
        know_the_answer: policies that look at the answers, likewise.
    """

    path: Path
    out: Path
    seeds: tuple[int, ...]
    runs: Mapping[str, Run]
    rows: tuple[Row, ...]
    columns: tuple[str, ...]
    reference: str | None = None
    paper: str = ""
    threads: int = 1
    code: bool = False
    runs_in: Path | None = None
    launcher: LauncherConfig | None = None
    slurm: SlurmOptions = field(default_factory=SlurmOptions)
    files: tuple[Path, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict[str, str])
    sources: Mapping[str, str] = field(default_factory=dict[str, str])
    metrics: Mapping[str, MetricMeaning] = field(default_factory=lambda: METRICS)
    know_the_answer: frozenset[str] = frozenset({ORACLE})


def load_study(path: str | Path, unchecked: bool = False) -> Study:
    """Read a study file and check all of it before anything is run.

    Args:
        path: of the file.
        unchecked: columns may be metrics of which nobody knows, since the configs are yet to be checked.

    Raises:
        UserError: names every mistake in the file at once, each with its line.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    errors: list[Mistake] = []
    raw, files = study_content(path, errors)
    content = Fields(raw, "", errors)
    for section in ("runs", "rows"):
        if raw.get(section) == {}:
            content.complain("must not be empty", section)
    axes = read_axes(content)
    refuse_axes_in_runs(raw.get("runs"), axes, errors)
    runs = {run.name: run for run in (_run(fields) for fields in content.take_sections("runs"))}
    study = _without_rows(path, content, _in_order(runs, errors), files)
    errors += [*_broken_references(study), *column_mistakes(study.columns, study.metrics, unchecked)]
    study = _with_rows(study, content.take_sections("rows"), axes, errors)
    content.refuse_the_rest()
    if errors:
        lines = [f"  {error} ({located(error.place, files)})" for error in errors]
        raise UserError("\n".join([f"{path} has {len(errors)} mistake(s):", *lines]))
    return _shared(study)


def _without_rows(path: Path, content: Fields, runs: Mapping[str, Run], files: tuple[Path, ...]) -> Study:
    """All that the file says of the study as a whole."""
    out = _folder(content, "out") or Path()
    return Study(
        path=path,
        out=out,
        seeds=tuple(content.take_list("seeds", int, "whole numbers")),
        runs=runs,
        rows=(),
        columns=tuple(content.take_list("columns", str, "names of metrics")),
        reference=content.take("reference", str, "the name of a row", optional=True),
        paper=content.take("paper", str, "what the paper's numbers were measured on", optional=True) or "",
        threads=1 if (threads := content.take("threads", int, "a whole number", optional=True)) is None else threads,
        code=content.take("code", bool, "true or false", optional=True) or False,
        runs_in=_folder(content, "runs_in", optional=True),
        launcher=read_launcher(content),
        slurm=read_slurm_options(content.take_section("slurm")),
        files=files,
        metrics=measured(read_checked(out).values()),
    )


def _shared(study: Study) -> Study:
    """The study with equal runs made one."""
    own = contributions(study.out, study.runs)
    runs, means = deduplicate_runs(study.runs, own)
    named = {name: digest([it.digest, sorted(it.levels)]) if it.levels else it.digest for name, it in own.items()}
    rows = tuple(replace(row, run=means[row.run]) for row in study.rows)
    sources = {name: it.source for name, it in own.items()}
    checked = read_checked(study.out)
    known = [checked[source] for source in sources.values() if source in checked]
    study = replace(study, runs=runs, rows=rows, digests=named, sources=sources)
    everybody = [*checked.values(), *known]  # the last word is that of the configs as they are
    return replace(study, metrics=measured(everybody), know_the_answer=informed(everybody))


def _folder(content: Fields, key: str, optional: bool = False) -> Path | None:
    """A folder that can be meant: of its own, and not somewhere far away by mistake."""
    if (named := content.take(key, str, "a folder", optional)) is None:
        return None
    place, here = Path(named).expanduser(), Path.cwd()
    whole = Path(os.path.abspath(place))  # noqa: PTH100  `..` as it is written, whatever links there are
    if not named.strip():
        content.complain("is empty; give a folder", key)
    elif whole in here.parents:
        content.complain(f"is {whole}, which holds the folder {here} that the command is called from", key)
    elif not place.is_absolute() and here.parent not in whole.parents:
        content.complain(f"leads to {whole}, far from {here}; write the whole path if that is meant", key)
    elif whole.exists() and not whole.is_dir():
        content.complain(f"is {whole}, which is a file and no folder", key)
    return place


def _values(fields: Fields) -> tuple[tuple[str, Any], ...]:
    """The values that `set` lays over configs."""
    values = fields.take_mapping("set", "single values")
    for name, value in values.items():
        if isinstance(value, dict) and value and not any(cast(dict[str, Any], value).values()):
            braces = f"{{{', '.join(cast(dict[str, Any], value))}}}"
            fields.complain(f"{braces} without quotes is no text; write '{braces}'", f"set.{name}")
    return tuple(values.items())


def _run(fields: Fields) -> Run:
    run = Run(
        name=fields.name,
        configs=_configs(fields, "configs"),
        after=tuple(fields.take_list("after", str, "names of runs", optional=True)),
        test=bool(fields.take("test", bool, "true or false", optional=True)),
        values=_values(fields),
        feedback=bool(fields.take("feedback", bool, "true or false", optional=True)),
    )
    if not run.name.strip() or "/" in run.name or run.name.startswith("."):
        fields.complain("cannot be the name of a folder; leave out `/`, and `.` at its beginning")
    if run.feedback and (run.test or not run.after):
        fields.complain("stores the feedback of a stage 3 that it comes `after`, and has nothing to test", "feedback")
    fields.refuse_the_rest()
    return run


def _configs(fields: Fields, key: str, optional: bool = False) -> tuple[Path, ...]:
    configs = tuple(Path(config) for config in fields.take_list(key, str, "config files", optional))
    for config in configs:
        if not config.is_file():
            fields.complain(f"there is no config file {config}")
            continue
        try:
            config_content(config)
        except UserError as error:
            fields.complain(str(error))
    return configs


def _with_rows(study: Study, sections: list[Fields], axes: dict[str, list[Any]], errors: list[Mistake]) -> Study:
    """The study with its rows, and the runs that they make."""
    runs, rows = dict(study.runs), dict[str, Row]()
    for section in sections:
        paper = take_paper(section, study.columns, study.metrics)
        refuse_unknown_axes(section, axes)
        for chosen in combinations(axes, (section.name, section.left)):
            fields = Fields(substituted(section.left, chosen), section.place, errors)
            row = _row(fields, runs, errors)
            row = replace(row, name=str(substituted(section.name, chosen)), axes=chosen, template=section.name)
            if row.name in rows:
                fields.complain(f"there are two rows {row.name!r}; name each axis in the row's own name")
            rows[row.name] = replace(row, paper=paper)
            if paper and chosen:
                fields.complain("cannot be the same for each value of an axis; write a row for the paper's", "paper")
    unused = axes.keys() - {name for row in rows.values() for name in row.axes}
    errors += [Mistake(f"axes.{name}", f"no row says {{{name}}}") for name in sorted(unused)]
    named = [("reference", study.reference), *((f"rows.{it.template}.reference", it.reference) for it in rows.values())]
    errors += [Mistake(place, f"there is no row {name!r}") for place, name in named if name and name not in rows]
    return replace(study, runs=runs, rows=tuple(rows.values()))


def _row(fields: Fields, runs: dict[str, Run], errors: list[Mistake]) -> Row:
    """One row; the runs it makes are added to `runs`."""
    run = fields.take("run", str, "the name of a run") or ""
    policy = fields.take("policy", str, "the name of a policy") or ""
    overlays = _configs(fields, "overlays", optional=True)
    values = _values(fields)
    stages = tuple(fields.take_list("stages", str, "names of runs", optional=True))
    reference = fields.take("reference", str, "the name of a row", optional=True)
    fields.refuse_the_rest()
    if run not in runs:
        fields.complain(f"there is no run {run!r}", "run")
    elif not runs[run].test:
        fields.complain(f"{run} is never tested; say `test: true` in runs.{run}", "run")
    for stage in stages if run in runs else ():
        if stage not in ancestors(runs, run):
            fields.complain(f"{stage!r} is not on the way to {run}", "stages")
    if stages and not (overlays or values):
        fields.complain("is there without `overlays` or `set` to lay over them", "stages")
    if (overlays or values) and not errors:  # of runs that wait for each other, or for none, nothing can be made
        run = apply_overrides(runs, run, Change(overlays, values, stages or (run,)))
    return Row(fields.name, run, policy, reference=reference)


def _broken_references(study: Study) -> list[Mistake]:
    """What names something that is not there."""
    broken = [
        Mistake(f"runs.{run.name}.after", f"there is no run {parent!r}")
        for run in study.runs.values()
        for parent in run.after
        if parent not in study.runs
    ]
    if len(set(study.seeds)) < len(study.seeds):
        broken.append(Mistake("seeds", "each may be there once"))
    if wrong := [seed for seed in study.seeds if not 0 <= seed < 2**32]:
        broken.append(Mistake("seeds", f"must be from 0 to {2**32 - 1}, but one is {wrong[0]}"))
    if study.threads < 1:
        broken.append(Mistake("threads", f"must be at least 1, but is {study.threads}"))
    return broken


def _in_order(runs: Mapping[str, Run], errors: list[Mistake]) -> dict[str, Run]:
    """The runs, each after those it needs."""
    try:
        order = TopologicalSorter({run.name: run.after for run in runs.values()}).static_order()
        return {name: runs[name] for name in order if name in runs}
    except CycleError as error:
        circle = " -> ".join(cast(list[str], error.args[1]))
        errors.append(Mistake("runs", f"each waits for the other: {circle}"))
        return dict(runs)
