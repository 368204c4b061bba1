"""Everything that can be wrong with a study's configs, found before the first run is started."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lit_avg.result_names import SELECTED
from lit_avg.studies.launchers.process import Command, call, last_lines
from lit_avg.studies.runs.plan import value_arguments
from lit_avg.studies.spec.config_files import named_files
from lit_avg.studies.spec.fingerprint import Checked, read_checked, source_of, write_checked
from lit_avg.studies.spec.overrides import Run
from lit_avg.studies.spec.study import Study, load_study
from lit_avg.studies.spec.validation import Mistake
from lit_avg.utils.errors import UserError
from lit_avg.utils.yaml_reader import located, located_name

_NAME = re.compile(r"'([A-Za-z_][\w.]*)'|\b([A-Za-z_][\w.]*):(?= )")
"""The names of entries that a message of the parser speaks of: in quotes, or before a colon."""


def checked_study(path: str | Path, command: Command) -> Study:
    """A study all of whose runs can be built, with their identities by what their configs come to.

    Args:
        path: the study file.
        command: answers `check`.

    Raises:
        UserError: names every mistake at once, with file and line.
    """
    study = load_study(path, unchecked=True)
    checked = read_checked(study.out)
    sources = {run.name: source_of(run) for run in study.runs.values()}
    settled = {source: entry.settled() for source in sources.values() if (entry := checked.get(source)) is not None}
    asked = {
        sources[run.name]: run
        for run in study.runs.values()
        if (entry := checked.get(sources[run.name])) is None or entry.may_have_changed or not entry.holds(read=True)
    }
    if copied := {key: entry for key, entry in settled.items() if key not in asked and entry != checked[key]}:
        write_checked(study.out, copied)
        study = load_study(path, unchecked=True)
    errors = list[str]()
    if asked:
        answers = dict(zip(asked, _ask(study, list(asked.values()), command), strict=True))
        errors = [_located(study, asked[key], answer["error"]) for key, answer in answers.items() if "error" in answer]
        answered = {key: Checked.of(answer) for key, answer in answers.items() if "error" not in answer}
        write_checked(study.out, {key: _with_data_of(entry, checked.get(key)) for key, entry in answered.items()})
        checked = read_checked(study.out)
        if not errors:
            study = load_study(path, unchecked=True)
    built = {run.name: checked[source] for run in study.runs.values() if (source := source_of(run)) in checked}
    errors += [f"  {mistake} ({located(mistake.place, study.files)})" for mistake in _table_mistakes(study, built)]
    if errors:
        raise UserError("\n".join([f"{study.path} has {len(errors)} mistake(s):", *errors]))
    return study


def _with_data_of(answer: Checked, earlier: Checked | None) -> Checked:
    """What is known of a config: asked again only for the sake of the data, it is what it was but for that."""
    if earlier is None:
        return answer
    return replace(
        earlier, manifests=answer.manifests, program=answer.program, states=answer.states, flops=answer.flops
    )


def _ask(study: Study, runs: Sequence[Run], command: Command) -> list[dict[str, Any]]:
    """What the training program says of runs' configs."""
    study.out.mkdir(parents=True, exist_ok=True)
    configs = [[part for config in run.configs for part in ("--config", str(config))] for run in runs]
    options = [config + value_arguments(run) for config, run in zip(configs, runs, strict=True)]
    with TemporaryDirectory(prefix=".check-", dir=study.out) as folder:
        asked, answered, log = (Path(folder) / name for name in ("asked.json", "answered.json", "log.txt"))
        asked.write_text(json.dumps(options), encoding="utf-8")
        process = call(("check", str(asked), "--out", str(answered)), log, command)
        process.join()
        if process.exitcode == 0 and answered.is_file():
            return json.loads(answered.read_text(encoding="utf-8"))
        end = "\n".join(f"    {line}" for line in last_lines(log, 15))
    raise UserError(f"the configs of {study.path} could not be checked; what was said last:\n{end}")


def _located(study: Study, run: Run, message: str) -> str:
    """A mistake in a run's configs, with file and line."""
    reason = message.splitlines()[0].partition(" (")[0]
    files = [file for config in reversed(run.configs) for file in named_files(config)]
    names = [quoted or before for quoted, before in _NAME.findall(reason)]
    where = located_name(names, [*files, *study.files]) or ", ".join(map(str, run.configs))
    return f"  {where}: {reason} (run {run.name})"


def _table_mistakes(study: Study, built: Mapping[str, Checked]) -> list[Mistake]:
    """What the table asks for that the rows' runs, as far as they can be built, will not have."""
    mistakes = [
        Mistake(f"runs.{run.stage}", f"{run.name} is no stage that learns from feedback, so none is stored")
        for run in study.runs.values()
        if run.feedback and run.name in built and built[run.name].feedback is None
    ]
    rows = [row for row in study.rows if row.run in built]
    for row in rows:
        policies = built[row.run].policies
        if row.policy not in policies:
            there = ", ".join(policies) or "none, since the stage compares none"
            mistakes.append(Mistake(f"rows.{row.name}.policy", f"there is no policy {row.policy!r}; there are {there}"))
    for column in study.columns:
        for name in {row.run: None for row in rows}:
            if mistake := _column_mistake(column, built[name]):
                mistakes.append(Mistake("columns", f"there is no metric {column!r} in {name}; {mistake}"))
                break
    return mistakes


def _column_mistake(column: str, checked: Checked) -> str | None:
    first, _, kind = column.partition("/")
    if first not in checked.metrics:
        return f"there are {', '.join(checked.metrics)}"
    if first == SELECTED.name:
        kind, _, level = kind.rpartition("/")
        if checked.levels and level not in map(str, checked.levels):
            return f"its levels are {', '.join(map(str, checked.levels))}"
    if kind and checked.kinds is not None and kind not in checked.kinds:
        return f"its questions are of the kinds {', '.join(checked.kinds)}"
    return None
