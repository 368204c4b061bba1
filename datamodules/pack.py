"""LLaVA's JSON and a folder of images to shards.

Every picture is decoded once, so that what is packed can be trained on; its bytes go into the shard as they are. What
cannot be learned from is refused with a reason and listed. The same input gives the same bytes.
"""

import hashlib
import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from datamodules.pictures import decode_picture, picture_format
from datamodules.samples import parse_turns, problem_of
from datamodules.shard_writer import Packable, ShardWriter, built_beside
from datamodules.shards import held_out
from lit_avg.errors import UserError

REJECTS = "rejects.jsonl"
"""The records that were refused, beside the shards: number, id and reason."""


class RefusedError(ValueError):
    """A record that cannot be packed; the message is the reason."""


@dataclass(frozen=True)
class PackReport:
    """What became of the records."""

    packed: Counter[str] = field(default_factory=Counter[str])  # samples per split, `.` for the only one
    refused: Counter[str] = field(default_factory=Counter[str])  # records per reason

    @property
    def reasons(self) -> str:
        """Why records were refused, the commonest reason first."""
        return ", ".join(f"{count} × {reason}" for reason, count in self.refused.most_common()) or "there are none"


def pack(annotations: Path, images: Path, out: Path, shard_bytes: int = 2**28, val_share: float = 0.0) -> PackReport:
    """Pack records into `out`, or into `out/train` and `out/val`.

    Args:
        annotations: a JSON list of LLaVA records, or one record a line.
        images: the folder their image paths start from.
        out: the folder to make; what is there is replaced once the new data are whole.
        shard_bytes: a shard is closed when the next sample would take it beyond this.
        val_share: share of the pictures that go to validation.

    Raises:
        UserError: the annotations or the image folder are not there or not what they should be, no record can be
            packed, or the disk is full.
    """
    if not images.is_dir():
        raise UserError(f"there is no image folder {images}; say with --images where the pictures are")
    records = read_records(annotations)
    settings = pack_settings(annotations, shard_bytes, val_share)
    splits = {False: "train", True: "val"} if val_share else {False: ".", True: "."}
    report = PackReport()
    with built_beside(out) as partial, (partial / REJECTS).open("w") as rejects:
        writers = {split: ShardWriter(partial / split, shard_bytes) for split in sorted(set(splits.values()))}
        for number, record in enumerate(records):
            try:
                sample = check_record(record, images)
            except RefusedError as refusal:
                report.refused[str(refusal).split(":")[0]] += 1
                rejects.write(_reject(number, record, str(refusal)))
                continue
            split = splits[held_out(sample.origin, val_share)]
            writers[split].write(sample)
            report.packed[split] += 1
        if not report.packed:
            raise UserError(f"none of the {len(records)} records in {annotations} can be packed: {report.reasons}")
        for split, writer in writers.items():
            writer.finish({**settings, "split": split})
    return report


def pack_settings(annotations: Path, shard_bytes: int, val_share: float) -> dict[str, Any]:
    """What a data set is made with, so that the same need not be made again.

    Raises:
        UserError: the annotations are not there.
    """
    digest = hashlib.sha256(_read_annotations(annotations)).hexdigest()
    return {"annotations": digest, "shard_bytes": shard_bytes, "val_share": val_share}


def read_records(annotations: Path) -> list[Any]:
    """The records of a `.json` list or a `.jsonl` file.

    Raises:
        UserError: the file is not there, or not JSON.
    """
    data = _read_annotations(annotations)
    try:
        text = data.decode("utf-8-sig")
        if annotations.suffix == ".jsonl":
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        records = json.loads(text)
    except ValueError as error:
        raise UserError(f"{annotations} is not JSON: {error}; name it .jsonl if it has a record a line") from error
    if not isinstance(records, list):
        raise UserError(f"{annotations} is not a list of records but a {type(records).__name__}")
    return cast(list[Any], records)


def _read_annotations(annotations: Path) -> bytes:
    if not annotations.is_file():
        raise UserError(f"there is no annotations file {annotations}; say with --annotations where it is")
    return annotations.read_bytes()


def check_record(record: Any, images: Path) -> Packable:
    """Make a sample of a record.

    Raises:
        RefusedError: it is no conversation of whole rounds about at most one picture that can be decoded.
    """
    if not isinstance(record, dict):
        raise RefusedError("not a record")
    fields = cast(dict[str, Any], record)
    image = _read_image(fields.get("image"), images)
    try:
        turns = parse_turns(fields["conversations"])
    except (KeyError, TypeError) as error:
        raise RefusedError(f"no conversation in LLaVA's form: {error!r}") from error
    if problem := problem_of(turns, image is not None):
        raise RefusedError(problem)
    sample = {"id": str(fields.get("id", "")), "conversations": [{"from": who, "value": text} for who, text in turns]}
    sample |= {name: fields[name] for name in ("kinds", "source") if name in fields}
    extension = picture_format(image) if image is not None else ""
    return Packable(json.dumps(sample, ensure_ascii=False).encode(), image, extension)


def _read_image(name: Any, images: Path) -> bytes | None:
    """The picture's bytes, found good."""
    if isinstance(name, list):
        name = cast(list[Any], name)
        if len(name) > 1:
            raise RefusedError("several images")
        name = name[0] if name else None
    if name is None or name == "":
        return None
    if not isinstance(name, str) or "\0" in name:
        raise RefusedError("an image that is not named by a path")
    path = (images / name).absolute()
    if not Path(os.path.normpath(path)).is_relative_to(images.absolute()):
        raise RefusedError(f"image outside the image folder: {name}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RefusedError(f"image missing: {name}") from error
    try:
        decode_picture(data, name)
    except UserError as error:
        raise RefusedError(f"image broken: {error}") from error
    return data


def _reject(number: int, record: Any, reason: str) -> str:
    name = cast(dict[str, Any], record).get("id") if isinstance(record, dict) else None
    return json.dumps({"record": number, "id": name, "reason": reason}, ensure_ascii=False) + "\n"
