"""`lit-avg compare RUN RUN`: what differs between two runs in config, environment, origin and result."""

from collections.abc import Mapping
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lit_avg.result_names import OUTCOMES
from lit_avg.studies.report.run_diff import (
    MetricPair,
    RunSummary,
    config_of,
    differing,
    environment_of,
    metric_pairs,
    origin_of,
    problem_of,
    read_side,
)
from lit_avg.studies.runs.plan import named_run, split_seed
from lit_avg.studies.spec.study import Study, load_study
from lit_avg.utils.command_line import VerbParser
from lit_avg.utils.errors import UserError


def main(argv: list[str]) -> int:
    """Run the verb.

    Args:
        argv: its arguments.

    Returns:
        The exit status, 0, however much differs.

    Raises:
        UserError: one of the two is no finished run.
    """
    parser = VerbParser(prog="lit-avg compare", description=__doc__)
    parser.add_argument("runs", nargs=2, metavar="RUN", help="a run's folder; with --study, the name of a run or a row")
    parser.add_argument("--study", type=Path, help="the study whose runs are meant; NAME:SEED means another seed")
    parser.add_argument("--all", action="store_true", help="show every metric")
    options = parser.parse_args(argv)
    study = load_study(options.study) if options.study else None
    first, second = (_side(study, name) for name in options.runs)
    if (first.policy is None) != (second.policy is None):
        raise UserError(
            "one of the two is a run with all its policies, the other a row with one; name two runs or two rows"
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=10_000)
    heads = [first.label, second.label]
    for title, tell in {"config": config_of, "environment": environment_of, "made of": origin_of}.items():
        _show_differences(console, title, heads, tell(first), tell(second))
    problems = [f"{side.label} has no result: {problem}" for side in (first, second) if (problem := problem_of(side))]
    if problems:
        console.print(Text("".join(f"  {problem}\n" for problem in problems)))
    else:
        _show_metrics(console, heads, list(metric_pairs(first, second, options.all)), options.all)
    return 0


def _side(study: Study | None, name: str) -> RunSummary:
    if study is None:
        return read_side(name, Path(name))
    rows = {row.name: row for row in study.rows}
    called, seed = split_seed(study, name)
    run = named_run(study, called, seed)
    row = None if called in study.runs else rows.get(called)
    return read_side(name, run.directory, row and row.policy)


def _show_differences(
    console: Console, title: str, heads: list[str], first: Mapping[str, str], second: Mapping[str, str]
) -> None:
    lines = differing(first, second)
    if not lines:
        console.print(Text(f"{title}: the same\n"))
        return
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD)
    for head in ("", *heads):
        table.add_column(Text(head), overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line))
    console.print(table)


def _show_metrics(console: Console, heads: list[str], pairs: list[MetricPair], every: bool) -> None:
    """Side by side, with the difference and, where questions can be paired, its 95 % interval."""
    table = Table(title=Text("result"), title_justify="left", box=box.SIMPLE_HEAD)
    for number, head in enumerate(("", *heads, "difference", "95 % interval")):
        table.add_column(Text(head), justify="right" if number else "left", overflow="fold")
    for pair in pairs:
        interval = "" if pair.interval is None else f"[{pair.interval[0]:+.4f}, {pair.interval[1]:+.4f}]"
        values = [_shown(pair.first), _shown(pair.second), _shown(pair.difference, "+")]
        table.add_row(*map(Text, (pair.name, *values, interval)), style="" if pair.difference else "dim")
    console.print(table)
    notes = ["interval: paired bootstrap over images; one seed of each tells nothing about others"]
    if not any(pair.interval for pair in pairs):
        notes = [f"no interval: the two {OUTCOMES} do not say what was chosen for each of the same questions"]
    notes += [] if every else ["--all shows every metric"]
    console.print(Text("".join(f"  {note}\n" for note in notes)))


def _shown(value: float | None, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign}.4f}"
