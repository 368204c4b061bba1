"""Lightning's DeepSpeed strategy on CPUs, over gloo; Lightning itself asks for a GPU, DeepSpeed does not.

Tests that use it ask for the fixture `deepspeed_operators`, since DeepSpeed compiles what CPUs talk by.
"""

from typing import Any

import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy


class DeepSpeedOnCpu(DeepSpeedStrategy):
    """As `DeepSpeedStrategy`; however small a parameter is, ZeRO stage 3 partitions it.

    Args:
        **kwargs: of `DeepSpeedStrategy`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(process_group_backend="gloo", **kwargs)
        assert isinstance(self.config, dict)
        self.config["zero_optimization"]["stage3_param_persistence_threshold"] = 0

    @property
    def root_device(self) -> torch.device:
        """With an index, which DeepSpeed is told and compares."""
        return torch.device("cpu", 0)

    def setup_environment(self) -> None:
        DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()
