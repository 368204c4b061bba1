"""Weights on disk: read without running code, and loaded only where every name and every shape fits.

They are known by hashes of their values, in whatever type of number they lie.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lit_avg.utils.errors import UserError
from lit_avg.utils.finite import check_weights, non_finite
from lit_avg.utils.hashing import hash_of_json, kept_of_files
from lit_avg.utils.json_files import read_entries

FORMATS = (("model", "safetensors"), ("pytorch_model", "bin"))
"""Stem and suffix of the weight files of a transformers checkpoint, in the order they are looked for."""


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint folder by name: sharded or single, safetensors or `*.bin`.

    Raises:
        UserError: there are no weights, a shard is missing, or a file is none that can be read without running code.
    """
    return _merged(weight_files(folder))


def weight_files(folder: Path) -> list[Path]:
    """The files that `read_weights` reads; errors as there."""
    for stem, suffix in FORMATS:
        index = folder / f"{stem}.{suffix}.index.json"
        if index.is_file():
            return [folder / name for name in files_of_index(index)]
        if (folder / f"{stem}.{suffix}").is_file():
            return [folder / f"{stem}.{suffix}"]
    raise UserError(f"{folder} has no weights; there should be model.safetensors or pytorch_model.bin, or an index")


def files_of_index(index: Path) -> list[str]:
    """The names of the files that an index tells of."""
    return sorted(set(cast(dict[str, str], read_json(index)["weight_map"]).values()))


def read_file(path: Path) -> dict[str, Tensor]:
    """The tensors of one file; they are mapped, and read when they are used.

    Raises:
        UserError: it is missing, cut short, no weight file, or a pickle that holds more than tensors.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; fetch the checkpoint again")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        mapped = is_zipfile(path)  # as torch writes since version 1.6; an older file is read as a whole
        return cast(dict[str, Tensor], torch.load(path, map_location="cpu", weights_only=True, mmap=mapped))
    except UnpicklingError as error:
        raise UserError(
            f"{path} is refused: it holds more than tensors, and reading it could run code; use safetensors instead"
        ) from error
    except (SafetensorError, RuntimeError, EOFError) as error:
        raise UserError(f"{path} cannot be read as weights; it is another kind of file, or cut short") from error


def read_json(path: Path) -> dict[str, Any]:
    """The entries of a JSON file of a checkpoint; errors as in `read_entries`."""
    return read_entries(path, "name a folder that holds a checkpoint")


def load_exactly(module: nn.Module, weights: Mapping[str, Tensor], source: str, maker: str) -> None:
    """Put weights in place of a module's own, keeping their dtype.

    Args:
        module: takes the weights.
        weights: by the module's names.
        source: where they are from, for the message.
        maker: what says how the module is built, for the message: `its config.json describes`.

    Raises:
        UserError: a tensor is missing, is one too many, has another shape, or numbers that are not finite.
    """
    check_fit(module, weights, source, maker)
    module.load_state_dict(weights, assign=True)


def check_fit(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    source: str,
    maker: str,
    elsewhere: Set[str] = frozenset(),
    files: Sequence[Path] = (),
) -> None:
    """Refuse weights that are not finite or not exactly those of a module, but for names known to be `elsewhere`.

    Args:
        files: that the weights are mapped from, if they are, so that it is found out once whether they are finite.

    Other arguments and errors as in `load_exactly`.
    """
    own = module.state_dict()
    missing, unexpected = sorted(set(own) - set(weights) - elsewhere), sorted(set(weights) - set(own))
    if missing or unexpected:
        raise UserError(
            f"{source}{named_differences(missing, unexpected)}; it was made with another model than {maker}"
        )
    for name, tensor in weights.items():
        if own[name].shape != tensor.shape:
            raise UserError(f"{source}: {name} is {tuple(tensor.shape)}, but {tuple(own[name].shape)} in what {maker}")
    if not files or kept_of_files(
        files, f"finite {hash_of_json(sorted(weights))}", lambda: " ".join(non_finite(weights))
    ):
        check_weights(weights, source)


def named_differences(missing: list[str], unexpected: list[str]) -> str:
    """` lacks a, b and 3 more; has c too many`, for a message."""
    lacks = f" lacks {_some(missing)}" if missing else ""
    more = f" has {_some(unexpected)} too many" if unexpected else ""
    return " and".join(part for part in (lacks, more) if part)


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest


def _merged(paths: list[Path]) -> dict[str, Tensor]:
    return {name: tensor for path in paths for name, tensor in read_file(path).items()}


def tensors_hash(tensors: Iterable[Tensor]) -> str:
    """SHA-256 over shapes and values: of float32, or of what float32 has exactly."""
    return _hash(_in_float32(tensor) for tensor in tensors)


def hashes_with_types(tensors: Sequence[Tensor]) -> Iterator[str]:
    """What earlier checkpoints knew these weights by where a run did not compute in float32: the type was part of it.

    The values are rounded as such a run has rounded them.
    """
    for dtype in (torch.bfloat16, torch.half, torch.double):
        yield _hash(tensor.to(dtype) for tensor in tensors)


def _in_float32(tensor: Tensor) -> Tensor:
    """The same values in float32, where it has them all."""
    if not tensor.is_floating_point():
        return tensor
    single = tensor.float()
    return single if tensor.dtype != torch.double or torch.equal(single.double(), tensor) else tensor


def _hash(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
