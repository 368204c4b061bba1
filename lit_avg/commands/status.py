"""`lit-avg status STUDY`: how far a study has come; in a terminal the table is kept up to date until all is done."""

import time
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lit_avg.studies.launchers.process import last_lines
from lit_avg.studies.launchers.registry import build_launcher, noted_launchers
from lit_avg.studies.runs.dry_run import clock, expected_seconds, time_left
from lit_avg.studies.runs.plan import PlannedRun, plan, unchecked
from lit_avg.studies.runs.run_record import LOG, STATES, State, read_record, states
from lit_avg.studies.spec.study import Study, load_study
from lit_avg.utils.command_line import LONGEST_WAIT, VerbParser, number
from lit_avg.utils.errors import UserError
from lit_avg.utils.locks import owner_of

_STYLES: dict[State, str] = {"running": "bold", "failed": "red", "interrupted": "yellow"}


def main(argv: list[str]) -> int:
    """Run the verb.

    Args:
        argv: its arguments.

    Returns:
        The exit status, 0.
    """
    parser = VerbParser(prog="lit-avg status", description=__doc__)
    parser.add_argument("study", help="a study file")
    parser.add_argument(
        "--every",
        type=number(above=0, most=LONGEST_WAIT),
        default=2.0,
        help="seconds between two looks, in a terminal (default: 2)",
    )
    options = parser.parse_args(argv)
    runs = plan(study := load_study(options.study, unchecked=True))
    console = Console()
    state_of, unknown = _look(runs, study)
    if not console.is_terminal:
        Console(width=400).print(status_lines(runs, state_of, unknown))
        return 0
    with Live(status_lines(runs, state_of, unknown), console=console, auto_refresh=False) as live:
        while any(state_of[run] in ("running", "queued") for run in runs):
            time.sleep(options.every)
            state_of, unknown = _look(runs, study)
            live.update(status_lines(runs, state_of, unknown), refresh=True)
    return 0


def _look(runs: Sequence[PlannedRun], study: Study) -> tuple[dict[PlannedRun, State], str]:
    """How each run stands, and what of it cannot be known."""
    queued, unknown = set[str](), list[str]()
    for config in noted_launchers(study):
        try:
            queued.update(build_launcher(study, config).queued())
        except (UserError, OSError) as error:  # the second as where a launcher's own command is not on this machine
            unknown.append(f"which runs are queued is not known: {error}")
    state_of = states(runs, queued)
    left = [run for run in runs if state_of[run] != "done"]
    unknown += [advice] if (advice := unchecked(study, left)) else []
    return state_of, "\n".join(unknown) if left else ""


def status_lines(runs: Sequence[PlannedRun], state_of: dict[PlannedRun, State], unknown: str = "") -> Group:
    """A line for each run that is at work, waits in a queue or went wrong, and the sums of all; what is not known."""
    table = Table(box=box.SIMPLE_HEAD)
    for head in ("run", "state", "since", "where", "said last"):
        table.add_column(head, no_wrap=True, overflow="ellipsis")
    for run in runs:
        if state_of[run] in ("done", "to do"):
            continue
        owner = owner_of(run.directory) if state_of[run] == "running" else None
        since = clock(time.time() - owner.since) if owner else ""
        where = f"{owner.host} ({f'job {owner.job}' if owner.job else owner.pid})" if owner else ""
        newest = "".join(last_lines(run.directory / LOG, 1))
        state = Text(state_of[run], style=_STYLES.get(state_of[run], ""))
        table.add_row(Text(run.label), state, since, where, Text(newest))
    shown = [table] if table.rows else []
    return Group(*shown, Text(_sum(runs, state_of)), *([Text(unknown)] if unknown else []))


def _sum(runs: Sequence[PlannedRun], state_of: dict[PlannedRun, State]) -> str:
    counts = [f"{count} {state}" for state in STATES if (count := list(state_of.values()).count(state))]
    expected = expected_seconds(runs)
    left = [run for run in runs if state_of[run] != "done"]
    known = [run for run in left if run in expected]
    side_by_side = max(1, list(state_of.values()).count("running"))
    text = f"{len(runs)} runs: {', '.join(counts)}"
    if known:
        text += f"; about {clock(time_left(known, state_of, expected, side_by_side))} left"
    if known and len(known) < len(left):
        text += f", and {len(left) - len(known)} of unknown length"
    spent = sum(record.seconds for run in runs if (record := read_record(run.directory)) is not None)
    return f"{text}; {clock(spent)} computed"
