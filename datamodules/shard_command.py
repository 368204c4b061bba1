"""`lit-avg shard`: LLaVA's JSON and a folder of images to shards. Loads neither torch nor transformers."""

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from datamodules.manifest import MANIFEST
from datamodules.pack import REJECTS, pack, pack_settings
from lit_avg.errors import UserError


def main(argv: list[str]) -> int:
    """Pack one data set, unless it is there already.

    Args:
        argv: the arguments behind `lit-avg shard`.

    Returns:
        0: the data set is there.

    Raises:
        UserError: the input is not what it should be, `--out` holds something else, or the disk is full.
    """
    arguments = parser().parse_args(argv)
    annotations, images, out = arguments.annotations, arguments.images, arguments.out
    shard_bytes = round(arguments.shard_size_mb * 2**20)
    if not 0 <= arguments.val_share < 1:
        raise UserError(f"--val-share is a share from 0 to below 1, but is {arguments.val_share}")
    if _is_done(out, pack_settings(annotations, shard_bytes, arguments.val_share), arguments.overwrite):
        print(f"already done: {out} was packed from these annotations with these settings")
        return 0
    report = pack(annotations, images, out, shard_bytes, arguments.val_share)
    for split, samples in sorted(report.packed.items()):
        print(f"{samples} samples packed into {out / split}")
    if report.refused:
        print(f"{report.refused.total()} records refused ({report.reasons}): see {out / REJECTS}")
    return 0


def parser() -> ArgumentParser:
    """The command's options."""
    options = ArgumentParser("lit-avg shard", description="Pack conversations in LLaVA's form and their images.")
    options.add_argument(
        "--annotations", type=Path, required=True, help="LLaVA records: .json, or .jsonl with one a line"
    )
    options.add_argument("--images", type=Path, required=True, help="the folder their image paths start from")
    options.add_argument("--out", type=Path, required=True, help="the folder to make")
    options.add_argument("--shard-size-mb", type=float, default=256, help="megabytes a shard (256)")
    options.add_argument(
        "--val-share",
        type=float,
        default=0.0,
        help="share of the pictures to keep for validation: makes OUT/train and OUT/val, which share no picture (0)",
    )
    options.add_argument("--overwrite", action="store_true", help="replace shards that were packed from something else")
    return options


def _is_done(out: Path, settings: dict[str, Any], overwrite: bool) -> bool:
    """Whether `out` already holds what would be packed; what it holds instead is only replaced when told to."""
    if not out.exists():
        return False
    if (existing := _settings_of(out)) is None:
        if out.is_dir() and not any(out.iterdir()):
            return False
        raise UserError(f"{out} is there and holds no shards of ours; choose another --out")
    if overwrite or existing == settings:
        return not overwrite
    changed = ", ".join(name for name, value in settings.items() if existing.get(name) != value)
    raise UserError(f"{out} was packed with other {changed}; choose another --out, or replace it with --overwrite")


def _settings_of(out: Path) -> dict[str, Any] | None:
    """What the data set in `out` was made with, None if there is none."""
    for manifest in (out / MANIFEST, out / "train" / MANIFEST):
        if manifest.is_file():
            settings: dict[str, Any] = json.loads(manifest.read_text())["settings"]
            return {name: value for name, value in settings.items() if name != "split"}
    return None
