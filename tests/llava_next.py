"""The same questions twice: as a `Batch` for us, and as transformers' own inputs for a twin with the same weights."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration, LlavaNextImageProcessorPil
from transformers.modeling_outputs import BaseModelOutputWithPooling

from datamodules.encoding.collate import Collate, EncodedSample, Question
from datamodules.encoding.tiling import Normalisation, Tiling
from lit_avg.batch import IGNORED_LABEL, IMAGE_PLACEHOLDER, Batch
from lit_avg.inputs.chat_encoding import TokenizedConversation
from lit_avg.llava_next.backbone import Backbone, FeatureSelection
from lit_avg.model import AvgLlava
from lit_avg.routing.router import GranularityRouter
from lit_avg.visual_tokens.granularity import Granularities

TILE, PATCH, VOCABULARY = 16, 4, 50
LEVELS = (1, 2, 4, 8, 16)
PINPOINTS = [[16, 32], [32, 16], [32, 32], [48, 16], [16, 48]]
IMAGE_TOKEN, PAD, PREFIX_IDS, END = 0, 1, [1, 2], 49

ENCODERS = ("clip_vision_model", "siglip_vision_model")
LLMS = ("llama", "mistral", "qwen2")


@dataclass(frozen=True)
class Asked:
    """One sample: an image's (width, height), if it has one, and questions of rounds of (asked, answered) tokens."""

    image: tuple[int, int] | None
    questions: Sequence[Sequence[tuple[int, int]]]


def backbone(
    encoder: str, llm: str, layer: int = -2, selection: FeatureSelection | None = None, **llm_changes: Any
) -> Backbone:
    size = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = size | {"model_type": encoder, "image_size": TILE, "patch_size": PATCH}
    # at 0.3 some gradients reach 12, where a rounding error in float32 is already 1e-6
    text = size | {"model_type": llm, "num_key_value_heads": 1, "vocab_size": VOCABULARY, "initializer_range": 0.2}
    text |= {"eos_token_id": END, "max_position_embeddings": 512} | llm_changes
    return Backbone(
        vision_encoder=vision, llm=text, vision_feature_layer=layer, vision_feature_select_strategy=selection
    )


def model(encoder: str, llm: str, layer: int = -2, seed: int = 0, **llm_changes: Any) -> AvgLlava:
    torch.manual_seed(seed)
    router = partial(GranularityRouter, instruction_tokens=4, heads=2, dropout=0.0)
    made = AvgLlava(partial(backbone, encoder, llm, layer, None, **llm_changes), Granularities(LEVELS), router, k=4)
    return made.eval()


def twin(ours: AvgLlava) -> LlavaNextForConditionalGeneration:
    """A LLaVA-NeXT of transformers' own making, with the weights of ours and an image token of its vocabulary."""
    hf = ours.backbone.hf
    config = LlavaNextConfig.from_dict(
        hf.config.to_dict() | {"image_token_index": IMAGE_TOKEN, "image_grid_pinpoints": PINPOINTS}
    )
    made = LlavaNextForConditionalGeneration(config)
    made.load_state_dict(hf.state_dict())
    return made.eval()


def image(size: tuple[int, int]) -> Image.Image:
    width, height = size
    pixels = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def rendering(rounds: Sequence[tuple[int, int]], pictured: bool, generator: torch.Generator) -> TokenizedConversation:
    ids = [*PREFIX_IDS, IMAGE_PLACEHOLDER] if pictured else list(PREFIX_IDS)
    prefix = len(ids) if pictured else 0
    answer, instruction, ends = [False] * len(ids), [False] * len(ids), list[int]()
    for asked, answered in rounds:
        ids += torch.randint(3, VOCABULARY, (asked + answered,), generator=generator).tolist()
        answer += [False] * asked + [True] * answered
        instruction += [True] * asked + [False] * answered
        ends.append(len(ids))
    return TokenizedConversation(
        torch.tensor(ids), torch.tensor(answer), torch.tensor(instruction), prefix, tuple(ends)
    )


def ours_and_theirs(samples: Sequence[Asked], hf: LlavaNextForConditionalGeneration) -> tuple[Batch, "Theirs"]:
    """Collated for us; for transformers a row each question, its image repeated."""
    generator, tiling = torch.Generator().manual_seed(len(samples)), Tiling(TILE, PINPOINTS)
    encoded: list[EncodedSample] = []
    rows: list[tuple[TokenizedConversation, Image.Image | None]] = []
    for number, sample in enumerate(samples):
        shown = None if sample.image is None else image(sample.image)
        said = [rendering(rounds, shown is not None, generator) for rounds in sample.questions]
        questions = tuple(Question(f"{number}/{i}", "all", "?", one) for i, one in enumerate(said))
        encoded.append(EncodedSample(questions, None if shown is None else tiling(shown)))
        rows += [(one, shown) for one in said]
    batch = Collate(TILE)(encoded)
    return replace(batch, pixel_values=Normalisation()(batch.pixel_values)), Theirs.of(rows, hf)


@dataclass(frozen=True)
class Theirs:
    """What transformers' model is called with: rows of different lengths, and images by transformers' processor."""

    ids: list[Tensor]
    labels: list[Tensor]
    pixel_values: Tensor | None
    image_sizes: Tensor | None

    @staticmethod
    def of(
        rows: Sequence[tuple[TokenizedConversation, Image.Image | None]], hf: LlavaNextForConditionalGeneration
    ) -> "Theirs":
        images = [shown for _, shown in rows if shown is not None]
        pixels, sizes, counts = None, None, iter(list[int]())
        if images:
            processor = LlavaNextImageProcessorPil(
                size={"shortest_edge": TILE},
                crop_size={"height": TILE, "width": TILE},
                image_grid_pinpoints=PINPOINTS,
            )
            # it takes a side of 1 or 3 pixels for the colours unless it is told where these are
            made = processor(images, return_tensors="pt", input_data_format="channels_last")
            pixels, sizes = made["pixel_values"], made["image_sizes"]
            with torch.no_grad():
                features = hf.get_image_features(pixels, sizes)
            assert isinstance(features, BaseModelOutputWithPooling)
            counts = iter([len(one) for one in features.pooler_output or ()])  # a list, an image each
        ids, labels = [], []
        for said, _ in rows:
            image = said.input_ids == IMAGE_PLACEHOLDER
            repeats = torch.ones_like(said.input_ids)
            if image.any():
                repeats[image] = next(counts)
            ids.append(said.input_ids.masked_fill(image, IMAGE_TOKEN).repeat_interleave(repeats))
            labels.append(torch.where(said.answer, said.input_ids, IGNORED_LABEL).repeat_interleave(repeats))
        return Theirs(ids, labels, pixels, sizes)

    def prompts(self) -> "Theirs":
        """The same without what follows the begin of each row's last answer."""
        ends = [_begin_of_last_run(labels != IGNORED_LABEL) for labels in self.labels]
        return replace(
            self,
            ids=[ids[:end] for ids, end in zip(self.ids, ends, strict=True)],
            labels=[labels[:end] for labels, end in zip(self.labels, ends, strict=True)],
        )

    def padded(self, side: str) -> dict[str, Tensor | None]:
        """One batch, padded on either side."""
        pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True, padding_side=side)
        return {
            "input_ids": pad(self.ids, padding_value=PAD),
            "attention_mask": pad([torch.ones_like(ids) for ids in self.ids]),
            "pixel_values": self.pixel_values,
            "image_sizes": self.image_sizes,
        }

    def padded_labels(self, side: str) -> Tensor:
        """The labels of `padded`."""
        labels = torch.nn.utils.rnn.pad_sequence(
            self.labels, batch_first=True, padding_value=IGNORED_LABEL, padding_side=side
        )
        assert isinstance(labels, Tensor)
        return labels


def _begin_of_last_run(there: Tensor) -> int:
    """Index at which the last run of True begins."""
    begins = there & ~torch.cat([there.new_zeros(1), there[:-1]])
    return int(begins.nonzero()[-1])
