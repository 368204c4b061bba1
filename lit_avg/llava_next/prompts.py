"""Images and prompts to a `Batch`, with nothing but the processor that lies beside an exported model.

Training reads shards through `datamodules`; this is the short way in for someone who has an image and a question.
Both decode and encode by the same functions, and the processor tiles as training does (tests hold all three), so a
model is asked as it was taught.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import LlavaNextProcessor, PreTrainedTokenizerFast
from transformers.image_processing_utils import select_best_resolution

from lit_avg.batch import IGNORED_LABEL, PADDING, PREFIX, Batch
from lit_avg.inputs import IMAGE_MARK
from lit_avg.inputs.chat_encoding import ChatEncoder, Message, TokenizedConversation, UnwritableError
from lit_avg.inputs.image_decoding import upright_rgb
from lit_avg.utils.errors import UserError


class PromptEncoder:
    """Makes batches of one question a row, without answers.

    Args:
        processor: transformers' processor of a LLaVA-NeXT, with its chat template.
    """

    def __init__(self, processor: LlavaNextProcessor) -> None:
        self.processor = processor
        parts = cast(Any, processor)
        self.tokenizer = cast(PreTrainedTokenizerFast, parts.tokenizer)
        self.image_processor = parts.image_processor
        self.encode = ChatEncoder(self.tokenizer, cast(str, parts.chat_template or self.tokenizer.chat_template))
        self.image_id = self.encode.image_id

    def __call__(self, images: Sequence[Image.Image | None], prompts: Sequence[str]) -> Batch:
        """One row a prompt; a prompt's image may be None.

        Raises:
            UserError: there are not as many images as prompts, a prompt is empty or marks an image itself, or an
                image is something else than one image.
        """
        if len(images) != len(prompts):
            raise UserError(f"{len(images)} images for {len(prompts)} prompts; give one each, None for no image")
        decoded = [_checked(number, image) for number, image in enumerate(images)]
        encoded = [
            self._encoded(number, prompt, image is not None)
            for number, (prompt, image) in enumerate(zip(prompts, decoded, strict=True))
        ]
        input_ids = pad_sequence([one.input_ids for one in encoded], batch_first=True)
        question = [
            torch.where(torch.arange(len(one.input_ids)) < one.prefix, PREFIX, number)
            for number, one in enumerate(encoded)
        ]
        shown = [image for image in decoded if image is not None]
        number_of_image = torch.tensor([image is not None for image in decoded]).cumsum(0) - 1
        return Batch(
            input_ids=input_ids,
            labels=torch.full_like(input_ids, IGNORED_LABEL),
            question=pad_sequence(question, batch_first=True, padding_value=PADDING),
            instruction=pad_sequence([one.instruction for one in encoded], batch_first=True),
            image_of_row=torch.where(torch.tensor([image is not None for image in decoded]), number_of_image, -1),
            pixel_values=self._pixels(shown),
            tile_grids=[self._tile_grid(image) for image in shown],
            image_sizes=torch.tensor([(image.height, image.width) for image in shown]).view(-1, 2),
            keys=[str(number) for number in range(len(prompts))],
            kinds=["all"] * len(prompts),
            answers=[""] * len(prompts),
        )

    def decode(self, ids: Tensor) -> str:
        """Token ids (T,) to text, without special tokens."""
        return cast(str, self.tokenizer.decode(ids.tolist(), skip_special_tokens=True)).strip()

    def _encoded(self, number: int, prompt: str, has_image: bool) -> TokenizedConversation:
        words = prompt.strip()
        if not words and not has_image:
            raise UserError(f"prompt {number} is empty; ask something")
        if IMAGE_MARK in words:
            raise UserError(f"prompt {number} says {IMAGE_MARK} itself; leave it out, the image goes first")
        try:
            return self.encode([Message("user", words, has_image)], prompt=True)
        except UnwritableError as error:
            raise UserError(f"prompt {number}: {error}") from error

    def _pixels(self, decoded: Sequence[Image.Image]) -> Tensor:
        """(tiles of all decoded, 3, S, S)."""
        side = self.image_processor.crop_size["height"]
        tiles = [self.image_processor(image, return_tensors="pt")["pixel_values"][0] for image in decoded]
        return torch.cat([torch.zeros(0, 3, side, side), *tiles])

    def _tile_grid(self, image: Image.Image) -> tuple[int, int]:
        side = self.image_processor.crop_size["height"]
        plane = select_best_resolution((image.height, image.width), self.image_processor.image_grid_pinpoints)
        return plane[0] // side, plane[1] // side


def _checked(number: int, image: object) -> Image.Image | None:
    """An image as the encoder is to see it."""
    if image is None:
        return None
    if not isinstance(image, Image.Image):
        what = f"{len(cast(Sequence[object], image))} images" if isinstance(image, list | tuple) else repr(image)[:80]
        raise UserError(f"image {number} is {what}, but a prompt shows one PIL image or None; open it with PIL.Image")
    try:
        return upright_rgb(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"image {number} cannot be decoded: {error}") from error
