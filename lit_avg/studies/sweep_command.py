"""`lit-avg sweep STUDY`: do the runs of a study that are not done yet, then make its table and figures."""

import argparse

from rich.console import Console

from lit_avg import cli
from lit_avg.studies.checking import checked_study
from lit_avg.studies.execution import Command
from lit_avg.studies.graph import graph_lines
from lit_avg.studies.machine import deal, visible_gpus
from lit_avg.studies.plan import plan
from lit_avg.studies.progress import Progress
from lit_avg.studies.results import collect
from lit_avg.studies.study import Study, load_study
from lit_avg.studies.sweep import Sweep, dependants
from lit_avg.studies.tables import print_table, write_tables

FAILED = 1


def main(argv: list[str], command: Command = cli.main) -> int:
    """Run the verb.

    Args:
        argv: its arguments.
        command: what each run calls.

    Returns:
        The exit status: 0 done, 1 a run failed or a config was changed meanwhile.
    """
    parser = argparse.ArgumentParser(prog="lit-avg sweep", description=__doc__)
    parser.add_argument("study", help="a study file, for example experiments/studies/quickstart.yaml")
    parser.add_argument("--jobs", type=int, default=1, help="runs done side by side (default: 1)")
    parser.add_argument("--retry", action="store_true", help="try again what has failed before")
    parser.add_argument("--dry-run", action="store_true", help="check everything and say what would be done")
    options = parser.parse_args(argv)
    slots = deal(options.jobs, load_study(options.study).threads, visible_gpus())
    study = checked_study(options.study, command)
    if options.dry_run:
        _say(Console(), graph_lines(study, plan(study), options.jobs))
        return 0
    return _sweep(study, slots, options.retry, command)


def _sweep(study: Study, slots: list[str | None], retry: bool, command: Command) -> int:
    console = Console()
    runs = plan(study)
    with Progress(console, len(runs)) as progress:
        sweep = Sweep(list(runs), progress, command, slots, retry)
        sweep.run()
    if sweep.failed:
        cut_off = ", ".join(run.label for run in dependants(runs, sweep.failed))
        _say(console, [f"not made: {cut_off or 'nothing else depends on it'}"])
        _say(console, ["the same command goes on from here; with --retry, it tries again what failed"])
        return FAILED
    if plan(load_study(study.path)) != runs:
        _say(console, ["configs were changed while the sweep ran; the same command makes anew what they concern"])
        return FAILED
    _finish(study, console)
    return 0


def _finish(study: Study, console: Console) -> None:
    """Table and figures; matplotlib takes a second to load, so not before it is needed."""
    from lit_avg.studies.figures import draw_figures

    table = collect(study)
    write_tables(table)
    draw_figures(study)
    print_table(table)
    lines = [f"table      {study.out / 'table.md'}, {study.out / 'table.csv'}"]
    lines += [f"figures    {study.out / 'figures'}", f"all runs   tensorboard --logdir {study.out}"]
    _say(console, lines)


def _say(console: Console, lines: list[str]) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
