"""`manifest.json`: what a folder of shards holds, and that it is whole.

It is written last, so a folder without one is not a data set.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lit_avg.errors import UserError

MANIFEST = "manifest.json"

FORMAT = 1
"""Version of the manifest."""


@dataclass(frozen=True)
class Shard:
    """One tar file, as the manifest describes it."""

    name: str
    samples: int
    bytes: int
    sha256: str  # empty if nobody has computed it


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds, and what it was made with."""

    samples: int
    shards: tuple[Shard, ...]
    settings: dict[str, Any]
    digest: str  # sha256 of the manifest file: names the data

    def part(self, names: list[str]) -> "Manifest":
        """The manifest of some of the shards.

        Raises:
            KeyError: one of the names is none of a shard.
        """
        by_name = {shard.name: shard for shard in self.shards}
        return manifest_of([by_name[name] for name in names], self.settings)


def manifest_of(shards: list[Shard], settings: dict[str, Any]) -> Manifest:
    """A manifest of shards that has no file of its own; what it describes gives its digest."""
    described = json.dumps([vars(shard) for shard in shards])
    digest = hashlib.sha256(described.encode()).hexdigest()
    return Manifest(sum(shard.samples for shard in shards), tuple(shards), settings, digest)


def parse_manifest(data: bytes, name: str) -> Manifest:
    """The content of a manifest file.

    Args:
        data: it.
        name: what the message calls it.

    Raises:
        UserError: it is something else, or of another format.
    """
    try:
        fields = json.loads(data)
        if fields["format"] != FORMAT:
            raise ValueError(f"format {fields['format']}, but only {FORMAT} is known")
        shards = [Shard(**shard) for shard in fields["shards"]]
        return replace(manifest_of(shards, fields["settings"]), digest=hashlib.sha256(data).hexdigest())
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{name} cannot be read: {error}; pack the data again with `lit-avg shard`") from error


def read_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest and see that every shard is there in full length.

    Raises:
        UserError: the folder or something in it is missing, cut short or of another format.
    """
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        missing = f"there is no {MANIFEST} in it" if folder.is_dir() else "there is no such folder"
        raise UserError(f"no shards in {folder}: {missing}; make them with `lit-avg shard --out {folder}`") from error
    manifest = parse_manifest(data, str(path))
    for shard in manifest.shards:
        check_length(folder / shard.name, shard.bytes)
    return manifest


def check_length(path: Path, expected: int) -> None:
    """See that a shard is there in full length.

    Raises:
        UserError: it is not.
    """
    found = path.stat().st_size if path.is_file() else None
    if found != expected:
        state = "is missing" if found is None else f"has {found} bytes instead of {expected}"
        raise UserError(f"shard {path} {state}; copy it again, or pack the data again with `lit-avg shard`")
