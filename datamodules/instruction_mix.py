"""`InstructionMix`: the 1M instructions of stages 2 to 4."""

from typing import Any, ClassVar

from datamodules.loading.mixture import WeightedShards
from datamodules.sizes import ExpectedSamples
from datamodules.vicuna_shards import VicunaShards


class InstructionMix(VicunaShards):
    """Open-LLaVA-NeXT-1M, packed by `lit-avg shard --preset open-llava-next-1m`; 200K of it are ALLaVA's.

    Args:
        train: location of the training shards, as in `datamodules.shards.sources`; or several with weights, as in
            `datamodules.loading.mixture`.
        batch_size: samples a step on each rank; on 8 of them, four times accumulated, the paper's 128.
        **kwargs: of `VicunaShards`.
    """

    expected: ClassVar[ExpectedSamples] = ExpectedSamples(samples=1_000_000, text=320, longest=2048)

    def __init__(self, train: str | list[WeightedShards], *, batch_size: int = 4, **kwargs: Any) -> None:
        super().__init__(train, batch_size=batch_size, **kwargs)
