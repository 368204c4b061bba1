"""What a checkpoint keeps of a model whose strategy saves trained parameters by itself, a part for each rank.

DeepSpeed and FSDP2 write those parameters and the optimiser's state into a folder. All else that a checkpoint in one
file has of the model goes with what all ranks have in common, whole and exact: buffers (DeepSpeed's own consolidation
rounds them to float32) and frozen parameters that lie nowhere else, such as layers that nothing reads.
"""

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any, cast

import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from lit_avg.runs.consolidation import ENTRIES_KEY, NAMES_KEY, WHOLE_KEY
from lit_avg.runs.sharded_checkpoint import FSDP2, ZERO
from lit_avg.utils.errors import UserError


def sharding(strategy: Strategy) -> str | None:
    """What a strategy is called whose checkpoints are folders; None of one that writes a file.

    Raises:
        UserError: it shards in a way that this program has no checkpoints for.
    """
    if isinstance(strategy, DeepSpeedStrategy):
        zero = cast(dict[str, Any], strategy.config).get("zero_optimization", {})
        return f"{ZERO}{zero.get('stage', 0)}"
    if isinstance(strategy, ModelParallelStrategy) and strategy._save_distributed_checkpoint:  # pyright: ignore[reportPrivateUsage]
        return FSDP2
    if isinstance(strategy, ModelParallelStrategy | FSDPStrategy):
        raise UserError(
            f"trainer.strategy: what {type(strategy).__name__} saves so could not be gone on from; name "
            "ModelParallelStrategy, which is FSDP2, and leave its save_distributed_checkpoint as it is"
        )
    return None


def trained_alone(module: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """What of a model's state a strategy shards and saves by itself: the parameters that are trained."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    return {name: tensor for name, tensor in state.items() if name in parameters and parameters[name].requires_grad}


def keep_whole(
    module: nn.Module,
    state: Mapping[str, Tensor],
    checkpoint: dict[str, Any],
    left_out: Iterable[str],
    strategy: Strategy,
    leads: bool,
) -> None:
    """Leave to a strategy what it saves, and put all else of a model's state into its checkpoint; all ranks have to.

    Args:
        module: the model.
        state: all of its state, as it lies on this rank.
        checkpoint: gets the tensors.
        left_out: names of tensors that lie elsewhere.
        strategy: saves the checkpoint.
        leads: this is the rank whose checkpoint has what all have in common.
    """
    if isinstance(strategy, DeepSpeedStrategy):
        strategy.exclude_frozen_parameters = True
    left_out = set(left_out)
    names = [name for name in state if name not in left_out]
    parameters, sharded = dict(module.named_parameters(remove_duplicate=False)), trained_alone(module, state)
    whole = {name: _gathered(parameters.get(name, state[name])) for name in names if name not in sharded}
    checkpoint[NAMES_KEY] = names
    checkpoint[WHOLE_KEY] = whole if leads else {}
    checkpoint[ENTRIES_KEY] = [name for name in checkpoint if name not in ("state_dict", "optimizer_states")]


def take_whole(
    module: nn.Module, state: Mapping[str, Tensor], checkpoint: Mapping[str, Any], strategy: Strategy
) -> None:
    """Put the tensors that a sharded checkpoint keeps whole into a model; all ranks have to."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    whole = cast(dict[str, Tensor], checkpoint[WHOLE_KEY])
    for name in strategy.broadcast(list(whole)):  # under ZeRO stage 3 the first rank alone has read them
        tensor = strategy.broadcast(whole.get(name))
        assert tensor is not None
        _put(parameters.get(name, state[name]), tensor)


def _gathered(tensor: Tensor) -> Tensor:
    """A copy on the CPU of what may be spread over the ranks."""
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    with _all_of(tensor, writes=False):
        return tensor.detach().cpu().clone()


@torch.no_grad()
def _put(tensor: Tensor, value: Tensor) -> None:
    if isinstance(tensor, DTensor):
        tensor.copy_(distribute_tensor(value.to(tensor.device), tensor.device_mesh, tensor.placements))
        return
    with _all_of(tensor, writes=True):
        if tensor.shape != value.shape:
            raise UserError(f"the checkpoint has a tensor of shape {tuple(value.shape)} for {tuple(tensor.shape)}")
        tensor.copy_(value)


def _all_of(tensor: Tensor, writes: bool) -> Any:
    """A context in which ZeRO stage 3 has brought a parameter together."""
    if not hasattr(tensor, "ds_id"):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([tensor], modifier_rank=0 if writes else None)
