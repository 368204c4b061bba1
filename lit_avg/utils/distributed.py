"""What several ranks need to know of each other: their random numbers, and whether parameters are spread over them."""

from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

RANDOM_STATE_KEY = "random_states"
"""Entry of a checkpoint: one state for each rank."""


class RandomState(TypedDict):
    """torch's generators of one process."""

    cpu: Tensor
    cuda: list[Tensor]  # one for each device that the process sees


def random_states() -> list[RandomState]:
    """Those of all ranks; every rank has to ask."""
    own = RandomState(cpu=torch.get_rng_state(), cuda=torch.cuda.get_rng_state_all())
    if not torch.distributed.is_initialized():
        return [own]
    states = [own] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(states, own)
    return states


def restore(states: list[RandomState], rank: int) -> None:
    """Go on from a rank's state; with other ranks or devices than there were, from a state that is there."""
    state = states[rank % len(states)]
    torch.set_rng_state(state["cpu"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def is_sharded(module: nn.Module) -> bool:
    """Whether parameters of a module are sharded by FSDP2 or DeepSpeed's ZeRO stage 3."""
    # DeepSpeed may not be installed, so its parameters are known by the number it gives each.
    return any(isinstance(parameter, DTensor) or hasattr(parameter, "ds_id") for parameter in module.parameters())


def shares_weights_with_ranks(module: nn.Module) -> bool:
    """Whether other ranks hold parts of a module's weights, so that all have to call it equally often."""
    distributed = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
    return distributed and is_sharded(module)


def size_of(parameter: Tensor) -> int:
    """How many numbers a parameter has, wherever they are; under ZeRO stage 3 this process's tensor may be empty."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))
