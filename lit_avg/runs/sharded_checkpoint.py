"""A checkpoint that is a folder, a part for each rank, as DeepSpeed and FSDP2 write it: told by its index what it is.

The index is written when all parts are. It says by which strategy and on how many ranks they were saved, and their
sizes: so it is known whether a folder is whole, and who can go on from it, before anything else of it is read.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from lit_avg.utils.atomic_io import write_whole
from lit_avg.utils.errors import UserError
from lit_avg.utils.json_files import read_entries

INDEX = "index.json"
"""Name of the index in the folder."""

ZERO, FSDP2 = "ZeRO stage ", "FSDP2"
"""How the names of strategies begin."""

_MEND = "bring it back from a copy, or move it away to begin anew"


@dataclass(frozen=True)
class Sharded:
    """What an index says.

    Args:
        saving: what no other saving has.
        strategy: `ZeRO stage 2`, `FSDP2`.
        ranks: how many saved it.
        step: optimiser steps that were done.
        files: the size of each, by its path in the folder.
    """

    saving: str
    strategy: str
    ranks: int
    step: int
    files: dict[str, int]


def is_folder(path: Path) -> bool:
    """Whether something is a checkpoint that is a folder, be it whole or not, and not the directory of a run."""
    return path.is_dir() and (path.suffix in (".ckpt", ".older") or (path / INDEX).is_file())


def parts_of(folder: Path) -> dict[str, int]:
    """The size of each file of a folder, by its path in it, but for the index."""
    parts = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / INDEX]
    return {str(path.relative_to(folder)): path.stat().st_size for path in parts}


def write_index(folder: Path, index: Sharded) -> None:
    """Say of a folder that all its parts are there."""
    write_whole(folder / INDEX, json.dumps(asdict(index), indent=1) + "\n", on_disk=True)


def read_index(folder: Path) -> Sharded:
    """What a folder says it is.

    Raises:
        UserError: it says nothing, or is not what it says: names the file.
    """
    index = folder / INDEX
    if not index.is_file():
        raise UserError(
            f"{folder} is a folder without {INDEX}, so it is not a whole checkpoint of this program; {_MEND}"
        )
    entries = [field.name for field in fields(Sharded)]
    said = read_entries(index, _MEND, entries)
    found = Sharded(**{name: said[name] for name in entries})
    for name, size in found.files.items():
        path = folder / name
        has = path.stat().st_size if path.is_file() else None
        if has != size:
            is_there = "is missing" if has is None else f"has {has} bytes"
            raise UserError(f"{path} {is_there}, but was saved with {size}, so the checkpoint is torn; {_MEND}")
    return found


def is_whole(path: Path) -> bool:
    """Whether a checkpoint is there, and if it is a folder, all of it."""
    if not is_folder(path):
        return path.is_file()
    try:
        read_index(path)
    except UserError:
        return False
    return True


def shared_file(folder: Path) -> Path:
    """The file with what all ranks have in common: of FSDP2, of DeepSpeed."""
    return next(_shared_files(folder), folder / "meta.pt")


def _shared_files(folder: Path) -> Iterator[Path]:
    yield from (path for path in (folder / "meta.pt",) if path.is_file())
    yield from sorted(folder.glob("checkpoint/*mp_rank_00_model_states.pt"))
