"""Writing a folder of shards: all of it or nothing.

A data set is built beside its place and renamed when it is whole, so whatever happens, nothing half-written is left
there. Members carry neither time nor owner: the same samples give the same bytes.
"""

import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.manifest import FORMAT, MANIFEST, Shard
from datamodules.shards import sample_key
from lit_avg.errors import UserError

_REPLACED = ".replaced"  # an older data set lies there for the moment in which the new one takes its place


@dataclass(frozen=True)
class Packable:
    """A record that has been found good."""

    record: bytes  # the sample's JSON
    image: bytes | None
    extension: str  # of the image

    @property
    def origin(self) -> str:
        """What decides its split: the picture, so that no two splits share one, or else the conversation."""
        return hashlib.sha256(self.image or self.record).hexdigest()


@contextmanager
def built_beside(out: Path) -> Generator[Path]:
    """A folder beside `out` that becomes it when the block ends, and is removed if the block fails.

    Raises:
        UserError: it cannot be written, for instance because the disk is full.
    """
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{out.name}.partial-", dir=out.absolute().parent))
    except OSError as error:
        raise UserError(f"cannot write beside {out}: {error.strerror}") from error
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp's are closed to others
        if out.exists():
            out.rename(partial / _REPLACED)
        os.rename(partial, out)  # noqa: PTH104  Path.rename hides that this is the atomic step
        shutil.rmtree(out / _REPLACED, ignore_errors=True)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}; nothing was left behind") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class ShardWriter:
    """Writes one folder of shards.

    Args:
        folder: made if it is not there.
        shard_bytes: a shard is closed when the next sample would take it beyond this.
    """

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.shard_bytes = shard_bytes
        self.samples = 0
        self.shards: list[Shard] = []
        self._tar: tarfile.TarFile | None = None

    def write(self, sample: Packable) -> None:
        """Add a sample, to a new shard if this one is full."""
        size = len(sample.record) + len(sample.image or b"")
        if self._tar is not None and self._tar.offset + size > self.shard_bytes:
            self._close()
        if self._tar is None:
            self._tar = tarfile.open(self._path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115  open across calls
        key = sample_key(self.samples)
        _add(self._tar, f"{key}.json", sample.record)
        if sample.image is not None:
            _add(self._tar, f"{key}.{sample.extension}", sample.image)
        self.samples += 1

    def finish(self, settings: dict[str, Any]) -> None:
        """Close the last shard and write the manifest."""
        self._close()
        shards = [vars(shard) for shard in self.shards]
        manifest = {"format": FORMAT, "samples": self.samples, "shards": shards, "settings": settings}
        (self.folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")

    @property
    def _path(self) -> Path:
        return self.folder / f"shard-{len(self.shards):06d}.tar"

    def _close(self) -> None:
        if self._tar is None:
            return
        self._tar.close()
        self._tar = None
        data = self._path.read_bytes()
        samples = self.samples - sum(shard.samples for shard in self.shards)
        self.shards.append(Shard(self._path.name, samples, len(data), hashlib.sha256(data).hexdigest()))


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # its time is 0 and its owner nobody, so the same samples give the same bytes
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
