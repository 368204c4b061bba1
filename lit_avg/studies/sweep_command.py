"""`lit-avg sweep STUDY`: do the runs of a study that are not done yet, then make its table and figures."""

import argparse

from rich.console import Console

from lit_avg import cli
from lit_avg.errors import UserError
from lit_avg.studies.execution import Command, locked
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
    options = parser.parse_args(argv)
    if options.jobs < 1:
        raise UserError(f"--jobs must be at least 1, but is {options.jobs}")
    study = load_study(options.study)
    with locked(study.out):
        return _sweep(study, options.jobs, command)


def _sweep(study: Study, jobs: int, command: Command) -> int:
    console = Console()
    runs = plan(study)
    with Progress(console, len(runs)) as progress:
        sweep = Sweep(study.out, runs, jobs, progress, command)
        sweep.run()
    if sweep.failed:
        cut_off = ", ".join(run.label for run in dependants(runs, sweep.failed))
        console.print(f"not made: {cut_off or 'nothing else depends on it'}", markup=False, soft_wrap=True)
        console.print("the same command goes on from here", markup=False)
        return FAILED
    if plan(study) != runs:
        console.print("configs were changed while the sweep ran; the same command makes anew what they concern")
        return FAILED
    table = collect(study)
    write_tables(table)
    _draw(study)
    print_table(table)
    for line in (
        f"table      {study.out / 'table.md'}, {study.out / 'table.csv'}",
        f"figures    {study.out / 'figures'}",
        f"all runs   tensorboard --logdir {study.out}",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def _draw(study: Study) -> None:
    """Make the figures; matplotlib takes a second to load, so not before it is needed."""
    from lit_avg.studies.figures import draw_figures

    draw_figures(study)
