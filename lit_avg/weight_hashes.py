"""Weights are known by their values, in whatever type of number they lie."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor


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
