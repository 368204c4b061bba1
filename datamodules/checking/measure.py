"""What a data set is measured with: the tokenizer, template and tiling that a training would use."""

from dataclasses import dataclass

from datamodules.encoding.conversation import VICUNA_SYSTEM_PROMPT

LLAVA_NEXT_PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
"""(height, width) of the planes that LLaVA-NeXT fits images into."""


@dataclass(frozen=True)
class MeasureSettings:
    """Names and numbers only, so that it can be sent to other processes. The defaults are the paper's.

    Args:
        tokenizer: as in `ShardsDataModule`; None to count words, for which no maximum length is known.
        template: see there.
        system_prompt: see there.
        max_length: see there.
        tile_size: see there.
        grid_pinpoints: see there.
        granularities: tokens per tile, coarse to fine.
        step: as in `Granularities`.
    """

    tokenizer: str | None = None
    template: str = "vicuna"
    system_prompt: str | None = VICUNA_SYSTEM_PROMPT
    max_length: int = 4096
    tile_size: int = 336
    grid_pinpoints: tuple[tuple[int, int], ...] | None = LLAVA_NEXT_PINPOINTS
    granularities: tuple[int, ...] = (36, 72, 144, 288, 576)
    step: int = 2

    @property
    def unit(self) -> str:
        """What lengths are counted in."""
        return "words" if self.tokenizer is None else "tokens"
