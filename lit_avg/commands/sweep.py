"""`lit-avg sweep STUDY`: do the runs of a study that are not done yet, then make its table and figures."""

from rich.console import Console

from lit_avg.commands.cancel import announced
from lit_avg.planning.gpus import GPUS, gpu_named
from lit_avg.studies.launchers.config_check import checked_study
from lit_avg.studies.launchers.process import Command
from lit_avg.studies.launchers.progress import Progress
from lit_avg.studies.launchers.registry import NAMES, build_launcher, chosen_launcher, note_launcher
from lit_avg.studies.launchers.sweep import Sweep, dependants
from lit_avg.studies.report.table import sheet_of
from lit_avg.studies.report.table_formats import print_table, write_tables
from lit_avg.studies.runs.dry_run import Speed, graph_lines
from lit_avg.studies.runs.plan import PlannedRun, plan
from lit_avg.studies.runs.run_record import is_finished
from lit_avg.studies.spec.study import Study, load_study
from lit_avg.utils.command_line import LONGEST_WAIT, VerbParser, number, process_count

FAILED = 1


def main(argv: list[str], command: Command) -> int:
    """Run the verb.

    Args:
        argv: its arguments.
        command: what each run calls: `lit_avg.cli.main`, which hands itself over, but for tests.

    Returns:
        The exit status: 0 done, 1 a run failed or a config was changed meanwhile.
    """
    options = _parser().parse_args(argv)
    gpu = gpu_named(options.gpu)
    config = chosen_launcher(load_study(options.study, unchecked=True), options.launcher)
    study = checked_study(options.study, command)
    launcher = build_launcher(study, config, {"jobs": options.jobs, "poll": options.poll})
    runs, console = plan(study), Console()
    if options.dry_run:
        jobs = options.jobs or int(config.init_args.get("jobs", 1))
        left = [run for run in runs if not is_finished(run)]
        speed = Speed(gpu.tflops * 1e12 * options.utilisation, f"{options.gpu} at {options.utilisation:.0%}")
        return _print(console, graph_lines(study, runs, jobs, speed) + launcher.preview(left))
    with announced(study.out), Progress(console, len(runs)) as progress:
        _print(console, launcher.check())
        note_launcher(study, config)
        sweep = Sweep(launcher, list(runs), progress, command, options.retry)
        sweep.run()
    return _end(study, runs, sweep.failed, console)


def _parser() -> VerbParser:
    parser = VerbParser(prog="lit-avg sweep", description=__doc__)
    parser.add_argument("study", help="a study file, for example experiments/studies/quickstart.yaml")
    parser.add_argument("--jobs", type=process_count(), help="runs done side by side on this machine (default: 1)")
    parser.add_argument("--retry", action="store_true", help="try again what has failed before")
    parser.add_argument("--dry-run", action="store_true", help="check everything and say what would be done")
    parser.add_argument("--gpu", default="h100", help=f"for the hours of --dry-run: {', '.join(GPUS)} (default: h100)")
    parser.add_argument(
        "--utilisation", type=number(above=0, most=1), default=0.4, help="share of its FLOPs reached (default: 0.4)"
    )
    parser.add_argument("--launcher", help=f"what does the runs: {NAMES} (default: the study's, or local)")
    parser.add_argument(
        "--poll",
        type=number(above=0, most=LONGEST_WAIT),
        help="seconds between two looks at a queue, as SLURM's (default: 5)",
    )
    return parser


def _end(study: Study, runs: list[PlannedRun], failed: list[PlannedRun], console: Console) -> int:
    """Say what was not made, or make the table."""
    if failed:
        cut_off = ", ".join(run.label for run in dependants(runs, failed))
        _print(console, [f"not made: {cut_off or 'nothing else depends on it'}"])
        _print(console, ["the same command goes on from here; with --retry, it tries again what failed"])
        return FAILED
    if plan(load_study(study.path)) != runs:
        _print(console, ["configs were changed while the sweep ran; the same command makes anew what they concern"])
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
    _print(console, lines)


def _print(console: Console, lines: list[str]) -> int:
    """Print lines as they are. Returns the exit status of what ends with them, 0."""
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0
