"""Weights that stay in their files until they are wanted: memory is mapped, and read tensor by tensor.

A module is made with its parameters on torch's meta device, without memory. `fill` puts tensors of mapped files in
their place, which costs none either; `to_memory` copies them one at a time, in the type and on the device they are to
have. So no more than one tensor is ever held beside the model, and a rank that keeps a share of each holds no more.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lit_avg.utils.errors import UserError

_WANTED_TYPE = "_lit_avg_wanted_type"
"""Attribute of a parameter that is mapped: the type of numbers it is to have in memory."""


@torch.no_grad()
def fill(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give parameters and buffers their values: those in memory in place, others as they lie in a mapped file.

    Args:
        module: takes the weights.
        weights: by names of its state dict, of the shapes that these have; tied parameters stay tied.
    """
    owners = _owners(module)
    for name, tensor in weights.items():
        parent, _, own_name = name.rpartition(".")
        holder = module.get_submodule(parent)
        old = getattr(holder, own_name)
        if not isinstance(old, nn.Parameter) or not (old.is_meta or is_mapped(old)):
            old.copy_(tensor)
            continue
        new = nn.Parameter(tensor, requires_grad=False).requires_grad_(old.requires_grad)
        setattr(new, _WANTED_TYPE, wanted_type(old))
        for owner, attribute in (places := owners.pop(id(old))):
            setattr(owner, attribute, new)
        owners[id(new)] = places


def is_mapped(parameter: Tensor) -> bool:
    """Whether a parameter lies in a file yet."""
    return hasattr(parameter, _WANTED_TYPE)


def wanted_type(parameter: Tensor) -> torch.dtype:
    """The type of numbers that a parameter has, or is to have in memory."""
    return getattr(parameter, _WANTED_TYPE, parameter.dtype)


def want_type(parameter: nn.Parameter, dtype: torch.dtype) -> None:
    """Have a parameter be of a type of numbers in memory."""
    if is_mapped(parameter):
        setattr(parameter, _WANTED_TYPE, dtype)
    else:
        parameter.data = parameter.data.to(dtype)


def to_memory(parameter: nn.Parameter, device: torch.device, read: bool = True) -> None:
    """Copy a mapped parameter to a device, in the type it is to have; move any other.

    Args:
        parameter: which one.
        device: where to.
        read: of a mapped one, else its values will come from elsewhere.
    """
    tensor = parameter.data
    if is_mapped(parameter):
        new = torch.empty(tensor.shape, dtype=wanted_type(parameter), device=device)
        parameter.data = new.copy_(tensor) if read else new
        delattr(parameter, _WANTED_TYPE)
    elif tensor.device != device:
        parameter.data = tensor.to(device)


def check_filled(module: nn.Module, source: str) -> None:
    """Refuse a module of which something was never filled.

    Raises:
        UserError: names the first such tensor.
    """
    tensors = dict[str, Tensor](module.named_parameters()) | dict(module.named_buffers())
    if empty := [name for name, tensor in tensors.items() if tensor.is_meta]:
        more = f" and {len(empty) - 1} more tensors" if len(empty) > 1 else ""
        raise UserError(f"{source} gives the model no {empty[0]}{more}")


def _owners(module: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Which modules have a parameter, and by what name, by its id; a tied one has several."""
    owners = dict[int, list[tuple[nn.Module, str]]]()
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False, remove_duplicate=False):
            owners.setdefault(id(parameter), []).append((owner, name))
    return owners
