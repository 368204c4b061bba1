"""How a stage's model is built under each strategy, so that no rank ever holds all of a model that is spread over many.

It is built on the CPU, with what is filled in from elsewhere still in its files (`lit_avg.utils.mapped_weights`), and
then brought into memory: parameter by parameter, and under ZeRO stage 3 each is partitioned before the next; under
FSDP2 layer by layer, and each layer is sharded before the next.
"""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from lit_avg.model import AvgLlava
from lit_avg.utils.errors import UserError
from lit_avg.utils.mapped_weights import check_filled, to_memory

DATA_PARALLEL, TENSOR_PARALLEL = "data_parallel", "tensor_parallel"
"""Lightning's names of the dimensions of its mesh."""


@contextmanager
def zero_init_suspended() -> Generator[Any]:
    """Within this, DeepSpeed's `zero.Init` leaves new modules alone; gives it, or None if there is none."""
    partitioning: Any = sys.modules.get("deepspeed.runtime.zero.partition_parameters")  # it may not be installed
    if partitioning is None or partitioning.top_level_context is None:
        yield None
        return
    partitioning.shutdown_init_context()
    try:
        yield partitioning.top_level_context
    finally:
        partitioning.restore_init_context()


def bring_to_memory(model: AvgLlava, device: torch.device, zero_init: Any, mesh: DeviceMesh | None) -> None:
    """Bring a model that was built on the CPU to where it is trained.

    Args:
        model: frozen already as it is to be.
        device: what it is computed on.
        zero_init: DeepSpeed's context, where parameters are to be partitioned.
        mesh: Lightning's, where they are to be sharded by FSDP2.

    Raises:
        UserError: a parameter has no values, or the mesh splits single layers.
    """
    check_filled(model, "what this run starts from")
    if zero_init is not None:
        _partition(model, zero_init)
    elif mesh is not None:
        _shard(model, device, mesh)
    else:
        _move(model, device)


def _move(module: nn.Module, device: torch.device) -> None:
    for parameter in module.parameters():
        to_memory(parameter, device)
    _move_buffers(module, device)


def _move_buffers(module: nn.Module, device: torch.device) -> None:
    for buffer in module.buffers():
        buffer.data = buffer.data.to(device)


def _partition(module: nn.Module, zero_init: Any) -> None:
    """Partition each parameter for ZeRO stage 3; the first rank's values count, so others need not read any."""
    dtype: torch.dtype = zero_init.dtype
    for parameter in module.parameters():
        to_memory(parameter, zero_init.local_device, read=zero_init.rank == 0)
        if dtype != torch.float32:  # what DeepSpeed computes in; else it is as it was built
            parameter.data = parameter.data.to(dtype)
        zero_init._convert_to_zero_parameters([parameter])
    _move_buffers(module, zero_init.local_device)


def _shard(model: AvgLlava, device: torch.device, mesh: DeviceMesh) -> None:
    """Shard each layer by itself, then the router, then all the rest together, tied parameters among it."""
    if mesh[TENSOR_PARALLEL].size() > 1:
        raise UserError(
            "strategy: FSDP2 shards layers over devices and does not split them; give ModelParallelStrategy "
            "a data_parallel_size of all devices and tensor_parallel_size: 1"
        )
    _move_buffers(model, device)
    for module in (*model.backbone.layers(), model.router, model):
        for parameter in module.parameters():
            to_memory(parameter, device)
        fully_shard(module, mesh=mesh[DATA_PARALLEL])
