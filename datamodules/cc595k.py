"""`CC595K`: 595K captions for stage 1."""

from typing import Any, ClassVar

from datamodules.loading.mixture import WeightedShards
from datamodules.sizes import ExpectedSamples
from datamodules.vicuna_shards import VicunaShards


class CC595K(VicunaShards):
    """LLaVA-CC3M-Pretrain-595K, packed by `lit-avg shard --preset cc595k`; captions without their questions.

    Args:
        train: location of the training shards, as in `datamodules.shards.sources`; or several with weights, as in
            `datamodules.loading.mixture`.
        batch_size: samples a step on each rank; on 8 of them the paper's 256.
        **kwargs: of `VicunaShards`.
    """

    expected: ClassVar[ExpectedSamples] = ExpectedSamples(samples=595_375, text=32, answers=0.9, longest=128)

    def __init__(
        self, train: str | list[WeightedShards] = "data/cc595k", *, batch_size: int = 32, **kwargs: Any
    ) -> None:
        super().__init__(train, batch_size=batch_size, template="plain", system_prompt=None, **kwargs)
