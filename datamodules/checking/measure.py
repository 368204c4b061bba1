"""What a data set is measured with: the tokenizer, template and tiling that a training would use."""

from dataclasses import dataclass

from datamodules.encoding.conversation import VICUNA_SYSTEM_PROMPT

LLAVA_NEXT_PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
"""(height, width) of the planes that LLaVA-NeXT fits images into."""


@dataclass(frozen=True)
class MeasureSettings:
    """Names and numbers only, so that it can be sent to other processes. The defaults are the paper's.

    Args:
        tokenizer: hub id, folder or name; None to count words, for which no maximum length is known.
        template: what conversations are rendered with, as in `ConversationRenderer`.
        system_prompt: what a conversation without a system turn begins with.
        max_length: tokens at most; what is longer would be cut.
        tile_size: side of a tile in pixels.
        grid_pinpoints: (height, width) of the planes an image may be fitted into; None for a single view.
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
    step: int | None = 2

    @property
    def unit(self) -> str:
        """What lengths are counted in."""
        return "words" if self.tokenizer is None else "tokens"
