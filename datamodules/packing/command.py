"""`lit-avg shard`: LLaVA's JSON and its images to shards."""

import os
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from rich.console import Console

from datamodules.packing import presets
from datamodules.packing.examine import DEFAULT_QUALITY, Resizing
from datamodules.packing.journal import changed_settings, remove_leftovers, settings_of
from datamodules.packing.pack import REJECTS, PackJob, must_pack_anew, pack
from datamodules.packing.progress_bar import progress_bar
from datamodules.packing.report import PackReport
from datamodules.packing.roots import parse_root
from lit_avg.utils.command_line import VerbParser, number, process_count, whole_number
from lit_avg.utils.errors import UserError


def main(argv: list[str]) -> int:
    """Pack one data set, unless it is there already.

    Args:
        argv: the arguments behind `lit-avg shard`.

    Returns:
        0: the data set is there.

    Raises:
        UserError: the input is not what it should be, too much of it is refused, `--out` holds something else, or the
            disk is full.
    """
    arguments = parser().parse_args(argv)
    job = PackJob(
        tuple(arguments.annotations),
        tuple(parse_root(argument) for argument in arguments.images),
        arguments.preset,
        round(arguments.shard_size_mb * 2**20),
        arguments.val_share,
        Resizing(arguments.max_side, arguments.quality),
    )
    out, settings = arguments.out, job.settings()
    if _is_done(out, settings, arguments.overwrite) and not must_pack_anew(job, out, arguments.workers):
        print(f"already done: {out} was packed from these annotations and images with these settings")
        return 0
    with progress_bar(Console(stderr=True)) as watch:
        report = pack(job, out, arguments.workers, arguments.max_rejects, arguments.overwrite, settings, watch)
    _print_summary(report, out)
    return 0


def parser() -> ArgumentParser:
    """The command's options."""
    options = VerbParser(
        "lit-avg shard",
        description="Pack conversations in LLaVA's form and their images.",
        epilog=f"presets: {presets.__doc__}",
        formatter_class=RawDescriptionHelpFormatter,
    )
    _add_places(options)
    _add_packing(options)
    _add_running(options)
    return options


def _add_places(options: ArgumentParser) -> None:
    options.add_argument(
        "--annotations", type=Path, nargs="+", required=True, help="LLaVA records: a JSON list, or one record a line"
    )
    options.add_argument(
        "--images",
        action="append",
        default=[],
        metavar="[PREFIX=]ROOT",
        help="the folder, zip or tar that image paths start from, or those that begin with PREFIX; once for each",
    )
    options.add_argument("--out", type=Path, required=True, help="the folder to make")
    options.add_argument("--preset", choices=list(presets.PRESETS), default="generic", help="see below (generic)")


def _add_packing(options: ArgumentParser) -> None:
    options.add_argument(
        "--shard-size-mb", type=number(least=0.001, most=1e6), default=256, help="megabytes a shard (256)"
    )
    options.add_argument(
        "--val-share",
        type=number(least=0, below=1),
        default=0.0,
        help="share of the images to keep for validation: makes OUT/train and OUT/val, which share no image (0)",
    )
    options.add_argument(
        "--max-side", type=whole_number(least=1), help="make images smaller that have more pixels on a side"
    )
    options.add_argument(
        "--quality",
        type=whole_number(least=1, most=100),
        help=f"write every image anew as a JPEG of this quality; else only smaller ones, with {DEFAULT_QUALITY}",
    )


def _add_running(options: ArgumentParser) -> None:
    options.add_argument(
        "--max-rejects",
        type=number(least=0, most=1),
        default=0.01,
        help="share of the records that may be refused; else OUT is not made, and OUT.partial can be looked at (0.01)",
    )
    options.add_argument(
        "--workers",
        type=process_count(),
        default=len(os.sched_getaffinity(0)),
        help="processes; the bytes are the same with any number (all cores)",
    )
    options.add_argument(
        "--overwrite",
        action="store_true",
        help="replace shards that were packed from something else, or from images that have changed",
    )


def _print_summary(report: PackReport, out: Path) -> None:
    for split, counts in sorted(report.splits.items()):
        without = f", {counts['text_only']} of them without an image" if counts["text_only"] else ""
        print(f"{counts['samples']} samples packed into {out / split}{without}")
    for what, count in sorted(report.left_out.items()):
        print(f"{count} × {what} of a conversation")
    if report.refused:
        print(f"{report.refused.total()} records refused ({report.reasons}): see {out / REJECTS}")


def _is_done(out: Path, settings: dict[str, Any], overwrite: bool) -> bool:
    """Whether `out` already holds what would be packed; what it holds instead is only replaced when told to."""
    if not out.exists():
        return False
    if (existing := settings_of(out)) is None:
        if out.is_dir() and not any(out.iterdir()):
            return False
        raise UserError(f"{out} is there and holds no shards of ours; choose another --out")
    if overwrite:
        return False
    if changed := changed_settings(existing, settings):
        raise UserError(f"{out} was packed with other {changed}; choose another --out, or replace it with --overwrite")
    remove_leftovers(out)
    return True
