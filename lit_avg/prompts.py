"""Pictures and prompts to a `Batch`, with nothing but the processor that lies beside an exported model.

Training reads shards through `datamodules`; this is the short way in for someone who has a picture and a question.
Both render by the same chat template and tile alike, so a model is asked as it was taught.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import LlavaNextProcessor, PreTrainedTokenizerFast
from transformers.image_processing_utils import select_best_resolution

from lit_avg.batch import IGNORED_LABEL, IMAGE_PLACEHOLDER, PADDING, PREFIX, Batch
from lit_avg.errors import UserError

IMAGE_MARK = "<image>"


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
        self.template = cast(str, parts.chat_template or self.tokenizer.chat_template)
        self.image_id = cast(int, self.tokenizer.convert_tokens_to_ids(IMAGE_MARK))

    def __call__(self, images: Sequence[Image.Image | None], prompts: Sequence[str]) -> Batch:
        """One row a prompt; a prompt's image may be None.

        Raises:
            UserError: there are not as many images as prompts, a prompt is empty or marks an image itself, or an
                image is something else than one picture.
        """
        if len(images) != len(prompts):
            raise UserError(f"{len(images)} images for {len(prompts)} prompts; give one each, None for no image")
        pictures = [_checked(number, image) for number, image in enumerate(images)]
        rendered = [
            self._rendered(number, prompt, picture is not None)
            for number, (prompt, picture) in enumerate(zip(prompts, pictures, strict=True))
        ]
        ids, question, instruction = zip(*rendered, strict=True)
        input_ids = pad_sequence(list(ids), batch_first=True)
        shown = [picture for picture in pictures if picture is not None]
        number_of_image = torch.tensor([picture is not None for picture in pictures]).cumsum(0) - 1
        return Batch(
            input_ids=input_ids,
            labels=torch.full_like(input_ids, IGNORED_LABEL),
            question=pad_sequence(list(question), batch_first=True, padding_value=PADDING),
            instruction=pad_sequence(list(instruction), batch_first=True),
            image_of_row=torch.where(torch.tensor([picture is not None for picture in pictures]), number_of_image, -1),
            pixel_values=self._pixels(shown),
            tile_grids=[self._tile_grid(picture) for picture in shown],
            image_sizes=torch.tensor([(picture.height, picture.width) for picture in shown]).view(-1, 2),
            keys=[str(number) for number in range(len(prompts))],
            kinds=["all"] * len(prompts),
            answers=[""] * len(prompts),
        )

    def decode(self, ids: Tensor) -> str:
        """Token ids (T,) to text, without special tokens."""
        return cast(str, self.tokenizer.decode(ids.tolist(), skip_special_tokens=True)).strip()

    def _rendered(self, number: int, prompt: str, has_image: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids, question numbers and instruction marks of one row, (T,) each."""
        words = prompt.strip()
        if not words:
            raise UserError(f"prompt {number} is empty; ask something")
        if IMAGE_MARK in words:
            raise UserError(f"prompt {number} says {IMAGE_MARK} itself; leave it out, the image goes first")
        content = f"{IMAGE_MARK}\n{words}" if has_image else words
        text = cast(
            str,
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": content}],
                chat_template=self.template,
                add_generation_prompt=True,
                tokenize=False,
            ),
        )
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = torch.tensor(encoded["input_ids"]), torch.tensor(encoded["offset_mapping"])
        begin = text.rindex(words)
        instruction = (offsets[:, 0] < begin + len(words)) & (offsets[:, 1] > begin)
        image = ids == self.image_id
        prefix = int(image.nonzero()[0]) + 1 if has_image else 0
        question = torch.where(torch.arange(len(ids)) < prefix, PREFIX, number)
        return ids.masked_fill(image, IMAGE_PLACEHOLDER), question, instruction

    def _pixels(self, pictures: Sequence[Image.Image]) -> Tensor:
        """(tiles of all pictures, 3, S, S)."""
        side = self.image_processor.crop_size["height"]
        tiles = [self.image_processor(picture, return_tensors="pt")["pixel_values"][0] for picture in pictures]
        return torch.cat([torch.zeros(0, 3, side, side), *tiles])

    def _tile_grid(self, picture: Image.Image) -> tuple[int, int]:
        side = self.image_processor.crop_size["height"]
        plane = select_best_resolution((picture.height, picture.width), self.image_processor.image_grid_pinpoints)
        return plane[0] // side, plane[1] // side


def _checked(number: int, image: object) -> Image.Image | None:
    """A picture as the encoder is to see it: upright, in RGB."""
    if image is None:
        return None
    if not isinstance(image, Image.Image):
        what = f"{len(cast(Sequence[object], image))} images" if isinstance(image, list | tuple) else repr(image)[:80]
        raise UserError(f"image {number} is {what}, but a prompt shows one PIL image or None; open it with PIL.Image")
    try:
        return ImageOps.exif_transpose(image).convert("RGB")
    except OSError as error:
        raise UserError(f"image {number} cannot be decoded: {error}") from error
