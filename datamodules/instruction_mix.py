"""`InstructionMix`: the 1M instructions of stages 2 to 4."""

from datamodules.encoding.conversation import VICUNA_SYSTEM_PROMPT
from datamodules.encoding.tiling import LLAVA_NEXT_PLANES
from datamodules.llava_shards import LLaVAShards


class InstructionMix(LLaVAShards):
    """Open-LLaVA-NeXT-1M, packed by `lit-avg shard --preset open-llava-next-1m`; 200K of it are ALLaVA's.

    Args:
        train: location of the shards, as in `LLaVAShards`, which says what the others are.
        tokenizer: see there.
        batch_size: see there.
        val_share: see there.
        template: see there.
        system_prompt: see there.
        max_length: see there.
        tile_size: see there.
        grid_pinpoints: see there.
        workers: see there.
        seed: see there.
        group_by_length: see there.
        shard_cache: see there.
        cache_gb: see there.
        test: see there.
    """

    def __init__(
        self,
        train: str,
        tokenizer: str = "lmsys/vicuna-7b-v1.5",
        batch_size: int = 4,
        val_share: float = 0.002,
        template: str = "vicuna",
        system_prompt: str | None = VICUNA_SYSTEM_PROMPT,
        max_length: int = 4096,
        tile_size: int = 336,
        grid_pinpoints: list[list[int]] | None = LLAVA_NEXT_PLANES,
        workers: int = 8,
        seed: int = 0,
        group_by_length: bool = False,
        shard_cache: str | None = None,
        cache_gb: float = 100.0,
        test: str | None = None,
    ) -> None:
        super().__init__(
            train,
            tokenizer,
            batch_size,
            tile_size,
            grid_pinpoints,
            test=test,
            val_share=val_share,
            template=template,
            system_prompt=system_prompt,
            max_length=max_length,
            workers=workers,
            seed=seed,
            group_by_length=group_by_length,
            shard_cache=shard_cache,
            cache_gb=cache_gb,
        )
