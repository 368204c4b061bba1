"""`CC595K`: 595K captions for stage 1."""

from datamodules.encoding.tiling import LLAVA_NEXT_PLANES
from datamodules.llava_shards import LLaVAShards


class CC595K(LLaVAShards):
    """LLaVA-CC3M-Pretrain-595K, packed by `lit-avg shard --preset cc595k`; captions without their questions.

    Args:
        train: location of the shards, as in `LLaVAShards`, which says what the others are.
        tokenizer: see there.
        batch_size: see there.
        val_share: see there.
        max_length: see there.
        tile_size: see there.
        grid_pinpoints: see there.
        workers: see there.
        seed: see there.
        shard_cache: see there.
        cache_gb: see there.
    """

    def __init__(
        self,
        train: str = "data/cc595k",
        tokenizer: str = "lmsys/vicuna-7b-v1.5",
        batch_size: int = 32,
        val_share: float = 0.002,
        max_length: int = 4096,
        tile_size: int = 336,
        grid_pinpoints: list[list[int]] | None = LLAVA_NEXT_PLANES,
        workers: int = 8,
        seed: int = 0,
        shard_cache: str | None = None,
        cache_gb: float = 100.0,
    ) -> None:
        super().__init__(
            train,
            tokenizer,
            batch_size,
            tile_size,
            grid_pinpoints,
            val_share=val_share,
            template="plain",
            system_prompt=None,
            max_length=max_length,
            workers=workers,
            seed=seed,
            shard_cache=shard_cache,
            cache_gb=cache_gb,
        )
