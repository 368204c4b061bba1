"""Writing the shards of one split, in such a way that it can be taken up again.

Members carry neither time nor owner: the same samples give the same bytes. What `state` says is on the disk; whatever
was written behind it is cut off when a writer begins from that state.
"""

import hashlib
import json
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from datamodules.shards.manifest import FORMAT, MANIFEST, Shard
from datamodules.shards.reader import sample_key
from lit_avg.utils.errors import UserError

_BLOCK = 512
_END = bytes(2 * _BLOCK)  # what a tar ends with


@dataclass(frozen=True)
class WriterState:
    """How far a split has been written."""

    samples: int = 0
    shards: list[dict[str, str | int]] = field(default_factory=list[dict[str, str | int]])  # closed, as in the manifest
    offset: int = 0  # bytes in the open shard; 0 for none


def write_manifest(folder: Path, state: WriterState, told: dict[str, Any]) -> None:
    """Make a data set of a folder whose shards are all closed.

    Args:
        folder: of the shards.
        state: of their writer.
        told: what else the manifest says; its `settings` must be there.
    """
    manifest = {"format": FORMAT, "samples": state.samples, "shards": state.shards, **told}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


class ShardWriter:
    """Writes one folder of shards.

    Args:
        folder: made if it is not there.
        shard_bytes: a shard is closed when the next sample would take it beyond this; None for no such bound.
        state: where to go on; at the beginning if not given.
        shard_samples: a shard is closed when it has so many; None for no such bound.

    Raises:
        UserError: the folder has less than the state says.
    """

    def __init__(
        self,
        folder: Path,
        shard_bytes: int | None,
        state: WriterState | None = None,
        shard_samples: int | None = None,
    ) -> None:
        folder.mkdir(exist_ok=True)
        state = state or WriterState()
        self.folder = folder
        self.shard_bytes, self.shard_samples = shard_bytes, shard_samples
        self.samples = state.samples
        self.shards = [Shard(**shard) for shard in state.shards]  # pyright: ignore[reportArgumentType]  from JSON
        self.offset = state.offset
        self._before = sum(shard.samples for shard in self.shards)  # samples in closed shards
        self._file: BinaryIO | None = None  # the open shard
        self._digest = hashlib.sha256()  # of what is in it
        self._unsaved: list[Path] = []  # closed, but perhaps not on the disk yet
        self._cut_back()

    def write(self, record: bytes, image: bytes | None = None, extension: str = "") -> None:
        """Add a sample, to a new shard if this one is full.

        Args:
            record: the sample's JSON.
            image: its image's file.
            extension: of the image.
        """
        if self._is_full_for(len(record) + len(image or b"")):
            self.close()
        if self._file is None:
            self._file, self._digest = self._path.open("wb"), hashlib.sha256()
        key = sample_key(self.samples)
        self._add(f"{key}.json", record)
        if image is not None:
            self._add(f"{key}.{extension}", image)
        self.samples += 1

    def close(self) -> None:
        """End the open shard, if there is one."""
        if self._file is None:
            return
        self._put(_END + bytes(-(self.offset + len(_END)) % tarfile.RECORDSIZE))
        self._file.close()
        self._unsaved.append(self._path)
        samples = self.samples - self._before
        self.shards.append(Shard(self._path.name, samples, self.offset, self._digest.hexdigest()))
        self._file, self.offset, self._before = None, 0, self.samples

    def abandon(self) -> None:
        """Let go of the open shard, which stays as it is."""
        if self._file is not None:
            self._file.close()

    def state(self) -> WriterState:
        """How far it is, everything of it being on the disk."""
        if self._file is not None:
            self._file.flush()
            self._unsaved.append(self._path)
        with ThreadPoolExecutor() as pool:  # many at once are hardly slower than one
            list(pool.map(_save, self._unsaved))
        self._unsaved = []
        return WriterState(self.samples, [dict(vars(shard)) for shard in self.shards], self.offset)

    @property
    def _path(self) -> Path:
        return self.folder / f"shard-{len(self.shards):06d}.tar"

    def _is_full_for(self, size: int) -> bool:
        """Whether a sample of so many bytes has to go to the next shard."""
        if self.shard_samples is not None and self.samples - self._before >= self.shard_samples:
            return True
        return self.shard_bytes is not None and self.offset > 0 and self.offset + size > self.shard_bytes

    def _cut_back(self) -> None:
        """Leave on the disk what the state says, and take up the open shard."""
        sizes = {shard.name: shard.bytes for shard in self.shards} | (
            {self._path.name: self.offset} if self.offset else {}
        )
        for path in self.folder.glob("shard-*.tar"):
            if path.name not in sizes:
                path.unlink()
        for name, size in sizes.items():
            path = self.folder / name
            if not path.is_file() or path.stat().st_size < size:
                raise UserError(f"{path} is not as it was left; remove the folder to begin anew")
        if self.offset:
            self._file = self._path.open("r+b")
            self._file.truncate(self.offset)
            self._digest = hashlib.file_digest(self._file, "sha256")
            self._file.seek(self.offset)

    def _add(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)  # its time is 0 and its owner nobody
        member.size = len(data)
        self._put(member.tobuf(tarfile.USTAR_FORMAT))
        self._put(data)
        self._put(bytes(-len(data) % _BLOCK))

    def _put(self, data: bytes) -> None:
        assert self._file is not None
        self._file.write(data)
        self._digest.update(data)
        self.offset += len(data)


def _save(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
