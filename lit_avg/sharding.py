"""Whether a strategy has spread parameters over the ranks, so that a forward pass is a collective of all of them."""

from torch import nn
from torch.distributed.tensor import DTensor


def shards(module: nn.Module) -> bool:
    """Whether parameters of a module are sharded by FSDP2 or DeepSpeed's ZeRO stage 3."""
    # DeepSpeed may not be installed, so its parameters are known by the number it gives each.
    return any(isinstance(parameter, DTensor) or hasattr(parameter, "ds_id") for parameter in module.parameters())
