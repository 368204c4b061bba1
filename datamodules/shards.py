"""A folder of shards: WebDataset's tar files, and a manifest that says they are whole.

`manifest.json` is written last, so a folder without one is not a data set. Samples are read by their running number,
which makes any order as cheap as any other: a shard's index is read from its headers when first needed.
"""

import hashlib
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from datamodules.samples import BadSampleError, Sample, parse_sample
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
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds, and what it was made with."""

    samples: int
    shards: tuple[Shard, ...]
    settings: dict[str, Any]
    digest: str  # sha256 of the manifest file: names the data


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
    try:
        fields = json.loads(data)
        if fields["format"] != FORMAT:
            raise ValueError(f"format {fields['format']}, but only {FORMAT} is known")
        shards = tuple(Shard(**shard) for shard in fields["shards"])
        manifest = Manifest(fields["samples"], shards, fields["settings"], hashlib.sha256(data).hexdigest())
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}; pack the data again with `lit-avg shard`") from error
    for shard in shards:
        _check_length(folder / shard.name, shard.bytes)
    return manifest


def _check_length(path: Path, expected: int) -> None:
    found = path.stat().st_size if path.is_file() else None
    if found != expected:
        state = "is missing" if found is None else f"has {found} bytes instead of {expected}"
        raise UserError(f"shard {path} {state}; copy it again, or pack the data again with `lit-avg shard`")


class ShardedSamples:
    """Random access to the samples of a folder of shards.

    Args:
        folder: holds the shards and their manifest.
        keep: which samples to take, by key; all of them if not given.
    """

    def __init__(self, folder: Path, keep: Callable[[str], bool] | None = None) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        numbers = range(self.manifest.samples)
        kept = [number for number in numbers if keep is None or keep(sample_key(number))]
        self.numbers = np.array(kept, dtype=np.int64)
        self.ends = np.cumsum([shard.samples for shard in self.manifest.shards])

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def shard_of_sample(self) -> NDArray[np.int64]:
        """(samples,) in which shard each sample lies."""
        return np.searchsorted(self.ends, self.numbers, side="right")

    def __getitem__(self, index: int) -> Sample:
        """Read one sample.

        Raises:
            BadSampleError: the shard holds something else there.
        """
        number = int(self.numbers[index])
        shard = self.manifest.shards[int(np.searchsorted(self.ends, number, side="right"))]
        path, key = self.folder / shard.name, sample_key(number)
        members = shard_index(path, shard.sha256).get(key, {})
        if "json" not in members or len(members) > 2:
            raise BadSampleError(f"sample {key} in {path} has {sorted(members)}, not .json and at most one picture")
        with path.open("rb") as file:
            parts = {name: _read(file, *place) for name, place in members.items()}
        record = parts.pop("json")
        return parse_sample(key, record, next(iter(parts.values()), None))


def sample_key(number: int) -> str:
    """The key of the sample with this running number."""
    return f"{number:09d}"


def held_out(name: str, share: float) -> bool:
    """Whether the sample or picture of this name is among the `share` that is not trained on: ever the same ones."""
    draw = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    return draw < share


@lru_cache(maxsize=64)
def shard_index(path: Path, digest: str) -> dict[str, dict[str, tuple[int, int]]]:
    """Where a shard's members lie: key to extension to (offset, bytes).

    Args:
        path: the shard.
        digest: its sha256; only tells the cache a shard from an older one of the same name.

    Raises:
        UserError: it is not a tar file.
    """
    index: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                index.setdefault(key, {})[extension] = member.offset_data, member.size
    except tarfile.TarError as error:
        raise UserError(f"shard {path} is not a whole tar file: {error}; pack the data again") from error
    return index


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)
