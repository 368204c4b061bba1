"""`VicunaShards`: shards as the paper's model reads them."""

from typing import Any

from datamodules.encoding.tiling import LLAVA_NEXT_PLANES
from datamodules.llava_shards import LLaVAShards
from datamodules.loading.mixture import WeightedShards


class VicunaShards(LLaVAShards):
    """Conversations for LLaVA-NeXT on Vicuna-7B and CLIP ViT-L/14-336: what the data sets of the paper share.

    Args:
        train: location of the training shards, as in `datamodules.shards.sources`; or several with weights, as in
            `datamodules.loading.mixture`.
        tokenizer: hub id or folder; Vicuna's own.
        tile_size: the vision encoder's native size in pixels; that of CLIP ViT-L/14-336.
        grid_pinpoints: (height, width) of the planes an image may be fitted into, None for a single view; LLaVA-NeXT's.
        val_share: share of the training samples to keep for validation, chosen by their keys; 0 where `val` is given.
        workers: processes that read and decode; they change nothing but the speed.
        **kwargs: of `LLaVAShards`.
    """

    def __init__(
        self,
        train: str | list[WeightedShards],
        *,
        tokenizer: str = "lmsys/vicuna-7b-v1.5",
        tile_size: int = 336,
        grid_pinpoints: list[list[int]] | None = LLAVA_NEXT_PLANES,
        val_share: float = 0.002,
        workers: int = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            train,
            tokenizer=tokenizer,
            tile_size=tile_size,
            grid_pinpoints=grid_pinpoints,
            val_share=val_share,
            workers=workers,
            **kwargs,
        )
