"""The sizes that are timed: random weights, random pixels, and every row of a batch alike.

`anchor` is the shape on which the authors' own code has been timed, `anchor-32k` the same with Vicuna's vocabulary and
four rows, where full logits hurt; `7b` is the paper's, for a GPU; `tiny` is for the tests.
"""

from dataclasses import dataclass, replace
from functools import partial

import torch

from lit_avg.batch import IGNORED_LABEL, IMAGE_PLACEHOLDER, PREFIX, Batch
from lit_avg.llava_next.backbone import Backbone
from lit_avg.model import AvgLlava
from lit_avg.routing.router import GranularityRouter
from lit_avg.stages import RGLF, MultiGranularityTuning
from lit_avg.stages.base import Stage
from lit_avg.training.optim import Optimization
from lit_avg.visual_tokens.granularity import Granularities


@dataclass(frozen=True)
class Shape:
    """Model and batch. Widths, depths and heads as transformers names them; tokens per row and step."""

    vision: dict[str, int]
    llm: dict[str, int]
    rows: int = 2
    granularities: tuple[int, ...] = (36, 72, 144, 288, 576)
    tile_grid: tuple[int, int] = (2, 2)
    before_image: int = 35
    instruction: int = 29
    answer: int = 16
    k: int = 32
    router_heads: int = 8
    dtype: torch.dtype = torch.float32
    device: str = "cpu"


ANCHOR = Shape(
    vision={"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4}
    | {"image_size": 336, "patch_size": 14, "projection_dim": 256},
    llm={"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 6}
    | {"num_key_value_heads": 6, "vocab_size": 8000, "max_position_embeddings": 8192},
)

SHAPES = {
    "anchor": ANCHOR,
    "anchor-32k": replace(ANCHOR, llm=ANCHOR.llm | {"vocab_size": 32000}, rows=4),
    "7b": Shape(
        vision={"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
        | {"image_size": 336, "patch_size": 14, "projection_dim": 768},
        llm={"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
        | {"num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096},
        dtype=torch.bfloat16,
        device="cuda",
    ),
    "tiny": Shape(
        vision={"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        | {"image_size": 32, "patch_size": 8, "projection_dim": 16},
        llm={"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
        | {"num_key_value_heads": 2, "vocab_size": 50, "max_position_embeddings": 512},
        granularities=(1, 2, 4, 8, 16),
        tile_grid=(1, 2),
        before_image=3,
        instruction=5,
        answer=2,
        k=4,
        router_heads=2,
    ),
}


def make_model(shape: Shape, dropout: float = 0.1) -> AvgLlava:
    """An `AvgLlava` with the release's semantics."""
    with torch.device(shape.device):
        torch.manual_seed(0)
        default = torch.get_default_dtype()
        torch.set_default_dtype(shape.dtype)
        vision, llm = {"model_type": "clip_vision_model"} | shape.vision, {"model_type": "llama"} | shape.llm
        router = partial(
            GranularityRouter, instruction_tokens=shape.k, heads=shape.router_heads, dropout=dropout, voter_init="mean"
        )
        model = AvgLlava(
            partial(Backbone, vision, llm), Granularities(shape.granularities), router, k=shape.k, semantics="release"
        )
        torch.set_default_dtype(default)
    return model.to(shape.dtype)


def make_batch(shape: Shape) -> Batch:
    """Rows of one question each, with as many tokens before the image, asked and answered as the shape says."""
    generator = torch.Generator().manual_seed(3)
    length = shape.before_image + 1 + shape.instruction + shape.answer
    ids = torch.randint(3, shape.llm["vocab_size"], (shape.rows, length), generator=generator)
    ids[:, shape.before_image] = IMAGE_PLACEHOLDER
    place = torch.arange(length).expand(shape.rows, -1)
    answer = place >= length - shape.answer
    own = place > shape.before_image
    side, tiles = shape.vision["image_size"], 1 + shape.tile_grid[0] * shape.tile_grid[1]
    names = [str(row) for row in range(shape.rows)]
    return Batch(
        input_ids=ids,
        labels=ids.masked_fill(~answer, IGNORED_LABEL),
        question=torch.where(own, torch.arange(shape.rows).unsqueeze(1), PREFIX),
        instruction=own & ~answer,
        image_of_row=torch.arange(shape.rows),
        pixel_values=torch.randn(shape.rows * tiles, 3, side, side, generator=generator).to(shape.dtype),
        tile_grids=[shape.tile_grid] * shape.rows,
        image_sizes=torch.tensor([[shape.tile_grid[0] * side, shape.tile_grid[1] * side]] * shape.rows),
        keys=names,
        kinds=["all"] * shape.rows,
        answers=names,
    ).to(shape.device)


def make_stage(number: int, model: AvgLlava) -> Stage:
    """Stage 3 or 4 with the release's weights of the losses; the vision encoder is frozen in both."""
    kind = {3: MultiGranularityTuning, 4: RGLF}[number]
    stage = kind(lambda: model, Optimization(lr=1e-3))
    stage.configure_model()
    return stage
