"""The weights of a sharded checkpoint in one file, in exactly the form that a run of one process would have saved.

Whoever wants weights (the next stage, a test, an export) reads this file, which the first to ask makes under a lock,
and which is made anew where the run was saved again since. Only a run that goes on reads the folder itself.

No code of a checkpoint is run: every pickle in it is read first by torch's reader of weights alone, which knows nothing
else than tensors, plain containers and the few classes of DeepSpeed's and torch's that are named here. DeepSpeed and
torch then read the same files by readers of theirs, which would not ask.
"""

import io
import pickle
from collections.abc import Generator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor

from lit_avg.runs.run_folder import checkpoint_path, consolidated_path
from lit_avg.runs.sharded_checkpoint import INDEX, ZERO, is_folder, parts_of, read_index, shared_file
from lit_avg.utils.atomic_io import whole_file
from lit_avg.utils.errors import UserError
from lit_avg.utils.hashing import file_state
from lit_avg.utils.locks import file_lock

WHOLE_KEY = "lit_avg_whole"
"""Entry of a sharded checkpoint: the tensors that are not sharded, by name."""

NAMES_KEY = "lit_avg_names"
"""Entry of a sharded checkpoint: names of all tensors that a checkpoint in one file would have, in their order."""

ENTRIES_KEY = "lit_avg_entries"
"""Entry of a sharded checkpoint: what Lightning and this program have put into it; DeepSpeed adds its own."""

SAVING_KEY = "lit_avg_consolidated_from"
"""Entry of a consolidated checkpoint: which saving it was made from."""

_OF_DEEPSPEED = (
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
)
"""What the optimiser's state of DeepSpeed has beside tensors."""

_TAG = "checkpoint"
"""The folder in a folder of DeepSpeed's, as Lightning names it."""

_UNREADABLE = (RuntimeError, UnpicklingError, EOFError, BadZipFile, KeyError, AttributeError, ValueError)


def weights_path(source: str) -> Path:
    """The file with the weights of a run or a checkpoint, be it there or not; of a sharded one it is made if need be.

    Raises:
        UserError: what lies there is no whole checkpoint.
    """
    path = checkpoint_path(source)
    consolidated = consolidated_path(path)
    if not is_folder(path):
        return consolidated if not path.exists() and consolidated.is_file() else path
    index = read_index(path)
    if _made_from(consolidated) != index.saving:
        with file_lock(consolidated.with_name(f".{consolidated.name}.lock")):
            if _made_from(consolidated) != index.saving:  # nobody has while this process waited
                consolidate(path, consolidated)
    return consolidated


def consolidate(folder: Path, out: Path) -> None:
    """Write a sharded checkpoint as one file, without the optimiser's state.

    Raises:
        UserError: the folder is torn, or holds what cannot be trusted.
    """
    index = read_index(folder)
    check_parts(folder)
    shared = read_shared(folder)
    with _quiet():
        trained = _of_zero(folder) if index.strategy.startswith(ZERO) else _of_fsdp2(folder)
    whole = cast(dict[str, Tensor], shared[WHOLE_KEY])
    found = {**trained, **whole}
    names = cast(list[str], shared[NAMES_KEY])
    if missing := [name for name in names if name not in found]:
        raise UserError(f"{folder} lacks {', '.join(missing[:3])}; go on with the run, so that it is saved again")
    content = {name: shared[name] for name in cast(list[str], shared[ENTRIES_KEY]) if name not in _OWN_ENTRIES}
    content["state_dict"] = {name: _single(found[name]) for name in names}
    content[SAVING_KEY] = index.saving
    with whole_file(out, on_disk=True) as partial, partial.open("wb") as file:
        torch.save(content, file)  # not by its name, which torch would keep in the file


_OWN_ENTRIES = (WHOLE_KEY, NAMES_KEY, ENTRIES_KEY)


def read_shared(folder: Path) -> dict[str, Any]:
    """What all ranks have in common: everything but the sharded tensors.

    Raises:
        UserError: it cannot be read, or lacks what this program puts there.
    """
    path = shared_file(folder)
    content = _read(path)
    if missing := [name for name in _OWN_ENTRIES if name not in content]:
        raise UserError(f"{path} has no {missing[0]}: it is no checkpoint of a stage; name another")
    return content


def check_parts(folder: Path) -> None:
    """See that nothing in a folder is damaged, or more than the data of a checkpoint.

    Raises:
        UserError: names the file.
    """
    files = read_index(folder).files
    if more := sorted(parts_of(folder).keys() - files.keys()):
        raise UserError(f"{folder} is refused: {more[0]} is none of the files that it was saved with; take it away")
    if (latest := folder / "latest").is_file() and latest.read_text(encoding="utf-8").strip() != _TAG:
        raise UserError(f"{folder} is refused: its file `latest` names another folder than {_TAG}")
    for name in sorted(files):
        path = folder / name
        if path.suffix == ".pt":
            _check_pt(path, file_state(path))
    if (folder / ".metadata").is_file():
        _check_items(folder, file_state(folder / INDEX))


@cache
def _check_pt(path: Path, state: str) -> None:
    """Of one state of a file; `state` tells an older file from this one."""
    _read(path)
    with ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise UserError(f"{path} is damaged at {damaged}; bring it back from a copy")


def _read(path: Path) -> dict[str, Any]:
    classes = [_named(name) for name in _OF_DEEPSPEED] if path.parent.name == _TAG else []
    try:
        with torch.serialization.safe_globals(classes):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except _UNREADABLE as error:
        reason = "it holds more than a checkpoint has" if "Unsupported" in str(error) else "it is damaged"
        raise UserError(f"{path} is refused: {reason} ({str(error).splitlines()[0][:120]})") from error


def _named(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


@cache
def _check_items(folder: Path, state: str) -> None:
    """See that what torch will unpickle of an FSDP2 checkpoint is harmless: its metadata, and each item of it."""
    path = folder / ".metadata"
    try:
        with path.open("rb") as file:
            metadata = _MetadataReader(file).load()
        for place in metadata.storage_data.values():
            with (folder / place.relative_path).open("rb") as file:
                file.seek(place.offset)
                item = io.BytesIO(file.read(place.length))
            torch.load(item, map_location="meta", weights_only=True)
            item.seek(0)
            with ZipFile(item) as archive:
                if archive.testzip() is not None:
                    raise UserError(f"{folder / place.relative_path} is damaged; bring it back from a copy")
    except (*_UNREADABLE, TypeError) as error:
        raise UserError(f"{folder} is refused: {str(error).splitlines()[0][:160]}") from error


class _MetadataReader(pickle.Unpickler):
    """Reads the metadata of torch.distributed.checkpoint, and nothing else than what such metadata are made of."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Find one of its parts."""
        is_dtype = module_name == "torch" and isinstance(getattr(torch, global_name, None), torch.dtype)
        if not is_dtype and global_name not in _OF_METADATA.get(module_name, ()):
            raise UnpicklingError(f"its metadata hold {module_name}.{global_name}, which those of no checkpoint do")
        return super().find_class(module_name, global_name)


_OF_METADATA = {
    "torch.distributed.checkpoint.metadata": (
        *("Metadata", "MetadataIndex", "StorageMeta", "ChunkStorageMetadata", "BytesStorageMetadata"),
        *("TensorStorageMetadata", "TensorProperties", "_MEM_FORMAT_ENCODING"),
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "torch": ("Size",),
    "pathlib": ("Path", "PosixPath"),
    "collections": ("OrderedDict",),
}
"""The names that they hold, by module; and torch's types of numbers."""


def _of_zero(folder: Path) -> Mapping[str, Tensor]:
    """The trained parameters of a DeepSpeed folder, in float32."""
    zero_to_fp32 = cast(Any, import_module("deepspeed.utils.zero_to_fp32"))
    return zero_to_fp32.get_fp32_state_dict_from_zero_checkpoint(str(folder), exclude_frozen_parameters=True)


def _of_fsdp2(folder: Path) -> Mapping[str, Tensor]:
    """The trained parameters of a folder of torch.distributed.checkpoint, and no optimiser state."""
    # as torch's own `dcp_to_torch_save` and Lightning's consolidation do, which read the optimiser's state as well
    torch_reader = cast(Any, import_module("torch.distributed.checkpoint.filesystem")).FileSystemReader(folder)
    planner = cast(Any, import_module("torch.distributed.checkpoint.default_planner"))._EmptyStateDictLoadPlanner
    load = cast(Any, import_module("torch.distributed.checkpoint.state_dict_loader"))._load_state_dict
    content: dict[str, Any] = {}
    load(content, torch_reader, planner=planner(keys={"state_dict"}), no_dist=True)
    return content["state_dict"]


def _single(tensor: Tensor) -> Tensor:
    """In float32, or as it is where it is finer or no floating-point number."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.half) else tensor


def _made_from(consolidated: Path) -> str | None:
    """The saving that a consolidated file was made from; None where there is none, or none that can be read."""
    if not consolidated.is_file():
        return None
    try:
        content = torch.load(consolidated, map_location="cpu", weights_only=True, mmap=True)
    except _UNREADABLE:
        return None
    return cast(str | None, content.get(SAVING_KEY))


@contextmanager
def _quiet() -> Generator[None]:
    """DeepSpeed tells of each file it reads."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield
