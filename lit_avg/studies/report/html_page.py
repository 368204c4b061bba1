"""A study as one HTML page that needs nothing else: table, figures, and where every number comes from."""

import base64
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from lit_avg.studies.report.figure_cache import FIGURES, are_fresh
from lit_avg.studies.report.results import commit_of
from lit_avg.studies.report.table_cells import Cell, TableSheet
from lit_avg.studies.runs.plan import PlannedRun, plan
from lit_avg.studies.runs.run_record import State, read_result, states
from lit_avg.studies.spec.study import Study
from lit_avg.utils.atomic_io import writable

_WIDE = 1200
"""Pixels; at 300 to the inch, figures of one column of a paper have 990 and those of two have 2070."""

_DUMPER = yaml.CSafeDumper if yaml.__with_libyaml__ else yaml.SafeDumper


@dataclass(frozen=True)
class Figure:
    """A figure by name, its PNG in base64; a wide one has a line of the page to itself."""

    name: str
    data: str
    wide: bool


@dataclass(frozen=True)
class RunView:
    """A run as the page shows it.

    Args:
        run: as planned.
        state: how it stands.
        facts: what its result, or its manifest if it is a store of feedback, says of it, in words.
        commands: what makes it, as a shell takes them.
        config: what its configs came to, as YAML; empty until it is made.
    """

    run: PlannedRun
    state: State
    facts: tuple[tuple[str, str], ...]
    commands: tuple[str, ...]
    config: str


def as_page(sheet: TableSheet) -> str:
    """The whole page. Figures that are missing, or show an earlier study or earlier results, are drawn first.

    Raises:
        UserError: a result cannot be read.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    study = sheet.table.study
    return environment.get_template("page.html.jinja").render(
        title=f"Study {study.path.stem}",
        sheet=sheet,
        figures=list(_figures(study)),
        runs=list(_runs(study)),
        sweep=shlex.join(["lit-avg", "sweep", str(study.path)]),
        number=_number,
        broken=_broken,
        commit_of=commit_of,
        short=_short,
    )


def _short(checkpoint: Mapping[str, str | None] | None) -> str:
    """The beginning of a checkpoint's hash."""
    return ((checkpoint or {}).get("own") or "–")[:16]


def _number(cell: Cell) -> Markup:
    """The mean as it is in every format, what is behind it in smaller type."""
    form = "<strong>{}</strong>" if cell.best else "{}"
    behind = Markup('<span class="behind">{}</span>').format(cell.behind) if cell.behind else ""
    return Markup(form).format(cell.mean or cell.said) + behind


def _broken(name: str) -> Markup:
    """A column's name that may be broken behind `/` and `_`."""
    return Markup(re.sub(r"([/_])", r"\1<wbr>", str(escape(name))))


def _figures(study: Study) -> Iterator[Figure]:
    """The study's figures, drawn anew unless they are up to date."""
    folder = study.out / FIGURES
    if not are_fresh(study):
        from lit_avg.studies.report.figures import draw_figures  # matplotlib takes a second to load

        folder = writable(folder)
        draw_figures(study, folder=folder)
    for path in sorted(folder.glob("*.png")):
        png = path.read_bytes()
        pixels = int.from_bytes(png[16:20], "big")  # the width is where every PNG has it
        yield Figure(path.stem.replace("_", " "), base64.b64encode(png).decode(), pixels > _WIDE)


def _runs(study: Study) -> Iterator[RunView]:
    planned = plan(study)
    for run, state in states(planned).items():
        result = read_result(run) if state == "done" else {}
        facts = _facts_of_store(result) if run.run.feedback else _facts(result)
        commands = tuple(shlex.join(["lit-avg", *command]) for command in run.commands)
        config = yaml.dump(result["config"], Dumper=_DUMPER, sort_keys=False) if result.get("config") else ""
        yield RunView(run, state, tuple(facts), commands, config)


def _facts_of_store(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a store of feedback was computed on and with, as far as there is one."""
    if not manifest:
        return
    for split, told in manifest["splits"].items():
        yield f"data of {split}", f"{told['data']}, {told['samples']} samples"
    yield "computed with", ", ".join(f"{key} {value}" for key, value in manifest["identity"].items())
    yield "checksum", manifest["sha256"]


def _facts(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Where a run was made and of what, as far as its result tells."""
    if not result:
        return
    yield "commit", commit_of(result, whole=True)
    yield "data", result.get("data") or "–"
    for name in ("checkpoint", "versions", "machine", "seconds"):
        entries: Mapping[str, Any] = result.get(name) or {}
        if entries:
            yield name, ", ".join(f"{key} {value}" for key, value in entries.items())
