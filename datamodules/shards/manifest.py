"""`manifest.json`: what a folder of shards holds, and that it is whole.

It is written last, so a folder without one is not a data set.
"""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lit_avg.utils.errors import UserError
from lit_avg.utils.hashing import changed_beneath, hash_of, is_later, known_sha256

MANIFEST = "manifest.json"

FORMAT = 1
"""Version of the manifest."""

_WORTH_TELLING = 10**9
"""Bytes that take a while to read."""

_log = logging.getLogger(__name__)


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
        if names == [shard.name for shard in self.shards]:
            return self
        by_name = {shard.name: shard for shard in self.shards}
        return manifest_of([by_name[name] for name in names], self.settings)


def manifest_of(shards: list[Shard], settings: dict[str, Any]) -> Manifest:
    """A manifest of shards that has no file of its own; what it describes gives its digest."""
    described = json.dumps([vars(shard) for shard in shards])
    return Manifest(sum(shard.samples for shard in shards), tuple(shards), settings, hash_of(described))


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
        return replace(manifest_of(shards, fields["settings"]), digest=hash_of(data))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{name} cannot be read: {error}; pack the data again with `lit-avg shard`") from error


def read_manifest(folder: Path, hashed: bool = True) -> Manifest:
    """Read a folder's manifest and see that every shard is there in full length.

    Args:
        folder: of the shards.
        hashed: see also that those which are younger than the manifest are what it describes.

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
    check_shards(path, manifest.shards, hashed)
    return manifest


def check_shards(manifest: Path, shards: Sequence[Shard], hashed: bool = True) -> None:
    """See that the shards beside a manifest are those that it describes.

    The manifest is written last, so whatever came to its place later is looked at more closely: its content is hashed,
    once. A copy of a folder is such a case, and so is a shard that somebody has changed or put there.

    Raises:
        UserError: one is missing, cut short, or another one.
    """
    written = manifest.stat()
    later = [shard for shard in shards if is_later(_found(manifest.parent / shard.name, shard.bytes), written)]
    if not hashed:
        return
    unread = sum(shard.bytes for shard in later if known_sha256(manifest.parent / shard.name) is None)
    if unread > _WORTH_TELLING:
        _log.warning(
            "%s: %.1f GB of shards are newer than their manifest; they are read once, to see whether it is right",
            manifest.parent,
            unread / 1e9,
        )
    for path, found in changed_beneath(manifest, {shard.name: shard.sha256 for shard in shards}).items():
        raise UserError(
            f"shard {path} is not the one that {manifest} describes (sha256 {found[:12]}…); bring that one back, "
            "or pack the data again with `lit-avg shard`"
        )


def _found(path: Path, expected: int) -> os.stat_result:
    """What a shard of full length is on the disk."""
    found = path.stat() if path.is_file() else None
    if found is None or found.st_size != expected:
        state = "is missing" if found is None else f"has {found.st_size} bytes instead of {expected}"
        raise UserError(f"shard {path} {state}; copy it again, or pack the data again with `lit-avg shard`")
    return found
