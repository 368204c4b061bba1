"""Tiny random models and batches, made by hand."""

from functools import partial

import torch

from lit_avg.batch import IGNORED_LABEL, IMAGE_PLACEHOLDER, PADDING, PREFIX, Batch
from lit_avg.llava_next.backbone import Backbone
from lit_avg.model import AvgLlava
from lit_avg.routing.router import GranularityRouter
from lit_avg.semantics import Preset, Semantics
from lit_avg.visual_tokens.granularity import Granularities
from lit_avg.visual_tokens.scaler import Pooling

TILE, VOCABULARY = 32, 50
LEVELS = (1, 2, 4, 8, 16)


def tiny_backbone(**changes: object) -> Backbone:
    vision = {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 2, "image_size": TILE, "patch_size": 8, "projection_dim": 16}
    llm = {"model_type": "llama", "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2}
    llm |= {
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "initializer_range": 0.2,
        "eos_token_id": 49,
    }
    torch.manual_seed(0)
    return Backbone(vision_encoder=vision, llm=llm, **changes)


def tiny_model(
    k: int = 4,
    levels: tuple[int, ...] = LEVELS,
    semantics: Semantics | Preset = "paper",
    slots: int = 4,
    pooling: Pooling = "average",
) -> AvgLlava:
    torch.manual_seed(0)  # for the router, which begins alike whatever the backbone draws
    router = partial(GranularityRouter, instruction_tokens=slots, heads=2, dropout=0.0)
    return AvgLlava(tiny_backbone, Granularities(levels), router, pooling, k, semantics).eval()


def row(questions: list[tuple[int, int]], image: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """A row of a 2-token prefix, an image, and questions of (instruction, answer) tokens each."""
    ids, labels, question, instruction = [1, 2], [], [PREFIX] * 2, []
    if image >= 0:
        ids, question = [*ids, IMAGE_PLACEHOLDER], [PREFIX] * 3
    labels, instruction = [IGNORED_LABEL] * len(ids), [False] * len(ids)
    for number, (asked, answered) in enumerate(questions):
        new = torch.randint(3, VOCABULARY, (asked + answered,), generator=generator).tolist()
        ids += new
        labels += [IGNORED_LABEL] * asked + new[asked:]
        question += [number] * (asked + answered)
        instruction += [True] * asked + [False] * answered
    named = {"input_ids": ids, "labels": labels, "question": question, "instruction": instruction}
    return {name: torch.tensor(values) for name, values in named.items()}


def make_batch(
    rows: list[tuple[list[tuple[int, int]], int]],
    images: list[tuple[tuple[int, int], tuple[int, int]]],
    seed: int = 0,
) -> Batch:
    """Rows of (questions, image), images of (tile grid, image size)."""
    generator = torch.Generator().manual_seed(seed)
    made = [row(questions, image, generator) for questions, image in rows]
    first = 0
    for one, (questions, _) in zip(made, rows, strict=True):
        one["question"] = torch.where(one["question"] >= 0, one["question"] + first, one["question"])
        first += len(questions)
    filling = {"input_ids": 0, "labels": IGNORED_LABEL, "question": PADDING, "instruction": False}
    padded: dict[str, torch.Tensor] = {
        name: torch.nn.utils.rnn.pad_sequence([one[name] for one in made], batch_first=True, padding_value=value)
        for name, value in filling.items()
    }
    tiles = sum(1 + grid[0] * grid[1] for grid, _ in images)
    return Batch(
        **padded,
        image_of_row=torch.tensor([image for _, image in rows]),
        pixel_values=torch.randn(tiles, 3, TILE, TILE, generator=generator),
        tile_grids=[grid for grid, _ in images],
        image_sizes=torch.tensor([size for _, size in images]).view(-1, 2),
        keys=[f"{number:03d}" for number in range(first)],
        kinds=["all"] * first,
        answers=["?"] * first,
    )
