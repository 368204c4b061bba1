"""transformers' processor for a model trained on a data module's batches: the same tiles, words and template."""

from collections.abc import Sequence
from copy import deepcopy

from transformers import LlavaNextImageProcessorPil, LlavaNextProcessor, PreTrainedTokenizerFast


def llava_next_processor(
    tokenizer: PreTrainedTokenizerFast,
    template: str,
    tile_size: int,
    grid_pinpoints: Sequence[Sequence[int]],
    image_mean: Sequence[float],
    image_std: Sequence[float],
    patch_size: int,
    feature_selection: str,
) -> LlavaNextProcessor:
    """A processor that makes of a chat, and of its rendered text, the tokens that the model knows.

    Args:
        tokenizer: with `<image>` among its tokens.
        template: chat template, which writes all special tokens; see
            `datamodules.encoding.conversation.chat_template`.
        tile_size: the vision encoder's native size in pixels.
        grid_pinpoints: (height, width) of the planes an image may be fitted into.
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
        tokenizer=_adding_nothing(tokenizer, template),
        patch_size=patch_size,
        vision_feature_select_strategy=feature_selection,
        num_additional_image_tokens=int(feature_selection == "default"),  # CLS, which that strategy leaves out
        chat_template=template,
    )


def _adding_nothing(tokenizer: PreTrainedTokenizerFast, template: str) -> PreTrainedTokenizerFast:
    """A copy that puts no special tokens around a text, since the template has written them, and pads on the left.

    So a rendered prompt does not begin twice, and prompts of a batch are continued from where they end.
    """
    copied = deepcopy(tokenizer)
    copied.chat_template = template
    copied.padding_side = copied.init_kwargs["padding_side"] = "left"
    if copied("a")["input_ids"] != copied("a", add_special_tokens=False)["input_ids"]:
        copied.add_bos_token = False  # either makes a new post-processor
        copied.add_eos_token = False
        copied.init_kwargs |= {"add_bos_token": False, "add_eos_token": False}
    return copied
