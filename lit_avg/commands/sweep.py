"""`lit-avg sweep STUDY`: do the runs of a study that are not done yet, then make its table and figures."""

import shutil
from importlib.util import find_spec
from typing import TYPE_CHECKING

from rich.console import Console

from lit_avg.commands.cancel import announced
from lit_avg.studies.launchers.config_check import checked_study
from lit_avg.studies.launchers.local import Sweep, SweepListener, dependants
from lit_avg.studies.launchers.process import Command
from lit_avg.studies.launchers.progress import Progress
from lit_avg.studies.launchers.resources import assign_gpus, visible_gpus, warn_oversubscribed
from lit_avg.studies.report.table import sheet_of
from lit_avg.studies.report.table_formats import print_table, write_tables
from lit_avg.studies.runs.dry_run import graph_lines
from lit_avg.studies.runs.plan import PlannedRun, plan
from lit_avg.studies.runs.run_record import is_finished
from lit_avg.studies.spec.study import Study, load_study
from lit_avg.utils.command_line import LONGEST_WAIT, VerbParser, number, process_count
from lit_avg.utils.errors import UserError

if TYPE_CHECKING:
    from lit_avg.studies.launchers.slurm import ClusterSweep

FAILED = 1


def main(argv: list[str], command: Command) -> int:
    """Run the verb.

    Args:
        argv: its arguments.
        command: what each run calls: `lit_avg.cli.main`, which hands itself over, but for tests.

    Returns:
        The exit status: 0 done, 1 a run failed or a config was changed meanwhile.
    """
    parser = VerbParser(prog="lit-avg sweep", description=__doc__)
    parser.add_argument("study", help="a study file, for example experiments/studies/quickstart.yaml")
    parser.add_argument("--jobs", type=process_count(), default=1, help="runs done side by side (default: 1)")
    parser.add_argument("--retry", action="store_true", help="try again what has failed before")
    parser.add_argument("--dry-run", action="store_true", help="check everything and say what would be done")
    parser.add_argument("--launcher", choices=["local", "slurm"], default="local", help="where runs are done")
    parser.add_argument(
        "--poll",
        type=number(above=0, most=LONGEST_WAIT),
        default=5.0,
        help="seconds between two looks at SLURM (default: 5)",
    )
    options = parser.parse_args(argv)
    slots = assign_gpus(options.jobs, visible_gpus())
    study = checked_study(options.study, command)
    if options.dry_run:
        return _say(Console(), graph_lines(study, plan(study), options.jobs) + _scripts(study, options.launcher))
    runs, console = plan(study), Console()
    with announced(study.out), Progress(console, len(runs)) as progress:
        if options.launcher == "slurm":
            sweep = _on_slurm(study, runs, progress, command, options.retry, options.poll)
        else:
            _say(console, warn_oversubscribed(options.jobs, study.threads))
            sweep = Sweep(list(runs), progress, command, slots, options.retry)
        sweep.run()
    return _end(study, runs, sweep.failed, console)


def _on_slurm(
    study: Study, runs: list[PlannedRun], watcher: SweepListener, command: Command, retry: bool, poll: float
) -> "ClusterSweep":
    """submitit comes with the extra `cluster`, so it is not imported before it is needed.

    Raises:
        UserError: it is not installed, or the study asks for other processes than its runs.
    """
    if find_spec("submitit") is None:
        raise UserError("--launcher slurm needs submitit; pip install -e '.[cluster]'")
    if shutil.which("sbatch") is None:
        raise UserError("--launcher slurm hands runs to sbatch, which is not here; call it on a login node")
    from lit_avg.studies.launchers.slurm import ClusterSweep
    from lit_avg.studies.launchers.slurm_submit import check_processes

    check_processes(study)
    return ClusterSweep(study, list(runs), watcher, command, retry, poll)


def _scripts(study: Study, launcher: str) -> list[str]:
    """What sbatch would be given for what is not done."""
    if launcher != "slurm":
        return []
    from lit_avg.studies.launchers.slurm_submit import check_processes, scripts

    check_processes(study)
    return ["", *scripts(study, [run for run in plan(study) if not is_finished(run)])]


def _end(study: Study, runs: list[PlannedRun], failed: list[PlannedRun], console: Console) -> int:
    """Say what was not made, or make the table."""
    if failed:
        cut_off = ", ".join(run.label for run in dependants(runs, failed))
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
    from lit_avg.studies.report.figures import draw_figures

    table = sheet_of(study)
    write_tables(table)
    figures = draw_figures(study)
    print_table(table)
    lines = [f"table      {study.out / 'table.md'}, {study.out / 'table.csv'}"]
    lines += [f"figures    {path}" for path in figures if path.suffix == ".png"]
    lines += [f"all runs   tensorboard --logdir {study.runs_in or study.out}"]
    _say(console, lines)


def _say(console: Console, lines: list[str]) -> int:
    """Print lines as they are. Returns the exit status of what ends with them, 0."""
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0
