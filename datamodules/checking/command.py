"""`lit-avg data check`: verify a folder of shards by its hashes, and tell what is in it."""

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from datamodules.checking.configs import measure_settings_of, renderer_of
from datamodules.checking.figure import draw_distributions
from datamodules.checking.measure import MeasureSettings
from datamodules.checking.report import print_report, problems_told
from datamodules.checking.scan import Scanner, ShardToScan
from datamodules.checking.statistics import Statistics
from datamodules.shards.manifest import MANIFEST, read_manifest
from lit_avg.utils.command_line import VerbParser, process_count, whole_number
from lit_avg.utils.errors import UserError
from lit_avg.utils.process_pool import in_order


def main(argv: list[str]) -> int:
    """Check one data set.

    Args:
        argv: the arguments behind `lit-avg data`.

    Returns:
        0: every shard is as it was packed.

    Raises:
        UserError: there are no shards, or some are damaged, which are named.
    """
    arguments = parser().parse_args(argv)
    settings = _measure_settings(arguments)
    tasks = shards_to_scan(arguments.shards)
    splits, problems = scan(tasks, settings, arguments.workers)
    everything = Statistics(len(settings.granularities))
    for statistics in splits.values():
        everything.update(statistics)
    print_report(Console(), splits, settings)
    if everything.samples:
        _draw(everything, settings, arguments)
    if problems:
        raise UserError(
            f"{len(problems)} problems in {arguments.shards}; copy what is named again, or pack it again:\n"
            + problems_told(problems)
        )
    size = sum(task.shard.bytes for task in tasks)
    print(f"{len(tasks)} shards of {size / 1e6:,.1f} MB are as they were packed")
    return 0


def _draw(everything: Statistics, settings: MeasureSettings, arguments: Namespace) -> None:
    """Draw the image; shards that lie where nobody may write are no worse for having none beside them."""
    figure = arguments.figure or arguments.shards / "distributions.png"
    try:
        draw_distributions(everything, settings, figure)
    except OSError as error:
        if arguments.figure is not None:
            raise
        reason = error.strerror or error
        print(f"the distributions are not drawn, for {figure} cannot be written ({reason}); name a --figure elsewhere")
    else:
        print(f"the distributions are drawn in {figure}")


def parser() -> ArgumentParser:
    """The command's options."""
    options = VerbParser("lit-avg data", description="Look after data sets that are packed.")
    check = options.add_subparsers(required=True).add_parser("check", help="verify shards and tell what is in them")
    check.add_argument("shards", type=Path, help="the folder that `lit-avg shard` has made, or one split of it")
    check.add_argument(
        "--config",
        type=Path,
        action="append",
        default=[],
        help="take tokenizer, template, tiling, length and granularities from a YAML of a stage, data or model",
    )
    defaults = MeasureSettings()
    check.add_argument("--tokenizer", help="hub id, folder, or a name that ships with the project; else words count")
    check.add_argument("--template", help=f"chat template ({defaults.template})")
    check.add_argument(
        "--max-length", type=whole_number(least=1), help=f"longest text in tokens ({defaults.max_length})"
    )
    check.add_argument("--figure", type=Path, help="the PNG to draw (SHARDS/distributions.png)")
    check.add_argument(
        "--workers", type=process_count(), default=len(os.sched_getaffinity(0)), help="processes (all cores)"
    )
    return options


def shards_to_scan(folder: Path) -> list[ShardToScan]:
    """All shards of a folder, or of the splits below it.

    Raises:
        UserError: there are none, or one is not there in full length.
    """
    below = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    tasks: list[ShardToScan] = []
    for split in below if below and not (folder / MANIFEST).is_file() else [folder]:
        first = 0
        for shard in read_manifest(split, hashed=False).shards:  # each shard is hashed when it is scanned
            tasks.append(ShardToScan(split.name, split, shard, first))
            first += shard.samples
    return tasks


def scan(
    tasks: Sequence[ShardToScan], settings: MeasureSettings, workers: int
) -> tuple[dict[str, Statistics], list[str]]:
    """Read all shards.

    Args:
        tasks: the shards.
        settings: what lengths are measured with.
        workers: processes; 1 for this one alone.

    Returns:
        What was counted in each split, and what is wrong.
    """
    splits = {task.split: Statistics(len(settings.granularities)) for task in tasks}
    problems: list[str] = []
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        shown = bar.add_task("checking", total=sum(task.shard.bytes for task in tasks))
        for findings in in_order(Scanner(settings, renderer_of(settings)), tasks, min(workers, max(len(tasks), 1))):
            splits[findings.task.split].update(findings.statistics)
            problems += findings.problems
            bar.advance(shown, findings.task.shard.bytes)
    return splits, problems


def _measure_settings(arguments: Namespace) -> MeasureSettings:
    """The config's, and what the other options say instead."""
    settings = measure_settings_of(arguments.config)
    if arguments.tokenizer is not None:
        settings = replace(settings, tokenizer=arguments.tokenizer)
    if arguments.template is not None:
        settings = replace(settings, template=arguments.template)
    if arguments.max_length is not None:
        settings = replace(settings, max_length=arguments.max_length)
    return settings
