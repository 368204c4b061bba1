"""Weights of the hub's encoders, LLMs and whole LLaVA-NeXTs, by the names that they have in a `Backbone`.

transformers' own loading makes a module of its own, holds all of it and fills what is missing with random numbers. Here
tensors stay in their files until each is wanted, and names and shapes have to be exactly those that are expected.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from lit_avg.utils.errors import UserError
from lit_avg.utils.weight_io import read_json, read_weights

COMPUTED = ("rotary_emb.inv_freq", "embeddings.position_ids")
"""Ends of names of buffers that older checkpoints hold and every model computes for itself."""

SAME_WEIGHTS = {"clip_vision_model": ("clip",), "siglip_vision_model": ("siglip",)}
"""Model types of repositories that hold an encoder beside other things."""

BESIDE_AN_ENCODER = ("text_model.", "text_projection.", "visual_projection.", "logit_scale", "logit_bias")
"""How the names of those other things begin."""

INNER = {"vision_encoder": "vision_model.", "llm": "model."}
"""What the names of a part's tensors begin with where it was saved together with a head or a text model."""

OF_WHOLE = (
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("vision_tower.vision_model.", "model.vision_tower."),
    ("model.vision_tower.vision_model.", "model.vision_tower."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("image_newline", "model.image_newline"),
)
"""Beginnings of names in folders of LLaVA-NeXTs, and what they are in a module; the first that fits counts."""

HEAD = "lm_head.weight"


def check_type(folder: Path, wanted: str, source: str) -> None:
    """Refuse a folder of another kind of model, before anything is made of it.

    Args:
        folder: where its `config.json` is.
        wanted: the model type that is expected.
        source: what the user calls it.

    Raises:
        UserError: names both types.
    """
    found = read_json(folder / "config.json").get("model_type")
    if found != wanted and found not in SAME_WEIGHTS.get(wanted, ()):
        raise UserError(f"{source} is a model of type {found}, but {wanted} is wanted here")


def part_weights(folder: Path, part: str) -> dict[str, Tensor]:
    """The tensors of a folder with an encoder or an LLM, by names within the part, and `lm_head.weight` if it is there.

    Args:
        folder: in transformers' format.
        part: `vision_encoder` or `llm`.

    Raises:
        UserError: there are no weights, or they cannot be read.
    """
    weights, inner = _own(read_weights(folder)), INNER[part]
    if part == "vision_encoder":
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith(BESIDE_AN_ENCODER)}
    return {name.removeprefix(inner): tensor for name, tensor in weights.items()}


def whole_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a LLaVA-NeXT in transformers' format, by the names that its module has today.

    Raises:
        UserError: there are none, or they cannot be read.
    """
    return {_renamed(name): tensor for name, tensor in _own(read_weights(folder)).items()}


def _own(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if not name.endswith(COMPUTED)}


def _renamed(name: str) -> str:
    for before, now in OF_WHOLE:
        if name.startswith(before):
            return now + name.removeprefix(before)
    return name
