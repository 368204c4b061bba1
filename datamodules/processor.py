"""transformers' processor for a model trained on a data module's batches: the same tiles, words and template."""

import json
from collections.abc import Sequence

from transformers import LlavaNextImageProcessorPil, LlavaNextProcessor, PreTrainedTokenizerFast


def llava_next_processor(
    tokenizer: PreTrainedTokenizerFast,
    template: str,
    system_prompt: str | None,
    tile_size: int,
    grid_pinpoints: Sequence[Sequence[int]],
    image_mean: Sequence[float],
    image_std: Sequence[float],
    patch_size: int,
    feature_selection: str,
) -> LlavaNextProcessor:
    """A processor whose chat template begins with the system prompt that the model knows.

    Args:
        tokenizer: with `<image>` among its tokens.
        template: chat template, as in `ConversationRenderer`.
        system_prompt: what a conversation without a system turn begins with.
        tile_size: the vision encoder's native size in pixels.
        grid_pinpoints: (height, width) of the planes a picture may be fitted into.
        image_mean: of each channel.
        image_std: of each channel.
        patch_size: side of the vision encoder's patches in pixels.
        feature_selection: transformers' `vision_feature_select_strategy`.
    """
    side = {"height": tile_size, "width": tile_size}
    return LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": tile_size},
            crop_size=side,
            image_grid_pinpoints=[list(pinpoint) for pinpoint in grid_pinpoints],
            image_mean=list(image_mean),
            image_std=list(image_std),
        ),
        tokenizer=tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy=feature_selection,
        num_additional_image_tokens=int(feature_selection == "default"),  # CLS, which that strategy leaves out
        chat_template=_with_system_prompt(template, system_prompt),
    )


def _with_system_prompt(template: str, system_prompt: str | None) -> str:
    """The template, told to begin with the prompt where a conversation has no system turn of its own."""
    if not system_prompt:
        return template
    system = f"[{{'role': 'system', 'content': {json.dumps(system_prompt)}}}]"
    without = "messages[0]['role'] != 'system'"
    return f"{{%- if {without} -%}}{{%- set messages = {system} + messages -%}}{{%- endif -%}}\n{template}"
