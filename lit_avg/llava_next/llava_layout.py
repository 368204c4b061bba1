"""Checkpoints in LLaVA's own layout, the authors' among them: their `config.json` and their names, in ours.

The release keeps LLaVA's names: the LLM's own beside `model.mm_projector`, `model.image_newline` and
`model.vision_tower.vision_tower`, and adds `model.router`. A plain LLaVA-NeXT in LLaVA's layout is the same without the
router. Ours are those of `AvgLlava.state_dict()`. The voter is (L, 1) there and (L,) here. A vision encoder that was
never trained lies in a repository of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from torch import Tensor
from transformers import LlavaNextConfig

from lit_avg.llava_next.llm_configs import config_of
from lit_avg.llava_next.pretrained_weights import COMPUTED, FileWeights, part_weights
from lit_avg.utils.errors import UserError
from lit_avg.utils.hub import config_folder, weights_folder
from lit_avg.utils.weight_io import read_json, read_weights, weight_files
from lit_avg.visual_tokens.granularity import Granularities

BACKBONE = "backbone.hf."
"""How our names of a backbone's tensors begin."""

LLMS = {"llava": "llama", "llava_llama": "llama", "llava_mistral": "mistral", "llava_qwen": "qwen2"}
"""The LLM under each of LLaVA's model types, as transformers calls it."""

EXPECTED = {
    "mm_projector_type": "mlp2x_gelu",
    "mm_patch_merge_type": "spatial_unpad",
    "image_aspect_ratio": "anyres",
}
"""What makes a LLaVA a LLaVA-NeXT; another value would silently be computed as this one."""

LLM_SETTINGS = frozenset(
    (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "hidden_act",
        "max_position_embeddings",
        "initializer_range",
        "rms_norm_eps",
        "rope_theta",
        "rope_scaling",
        "sliding_window",
        "use_sliding_window",
        "max_window_layers",
        "attention_bias",
        "attention_dropout",
        "mlp_bias",
        "tie_word_embeddings",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
    )
)
"""What of a config is the LLM's own; the rest is LLaVA's, AVG-LLaVA's, or concerns generation."""

FEATURES: dict[str, Literal["default", "full"]] = {"patch": "default", "cls_patch": "full"}
"""Which of the encoder's tokens are kept: LLaVA's word and transformers'."""


@dataclass(frozen=True)
class ReleaseConfig:
    """What a checkpoint of the authors says about itself."""

    llm: dict[str, Any]  # settings of the LLM with its `model_type`
    vision_tower: str  # hub id or folder of the vision encoder
    vision_feature_layer: int
    vision_features: Literal["default", "full"]  # `vision_feature_select_strategy` of transformers
    grid_pinpoints: list[list[int]]  # (height, width) of each plane; LLaVA writes width first
    granularities: Granularities | None  # None in a plain LLaVA-NeXT
    k: int
    margin: float


def release_config(config: Mapping[str, Any]) -> ReleaseConfig:
    """Read a `config.json`.

    Raises:
        UserError: it is not a LLaVA-NeXT, or something it must say is missing.
    """
    kind = config.get("model_type")
    if kind not in LLMS:
        raise UserError(f"config.json: model_type is {kind}, but this import knows {', '.join(LLMS)} and llava_next")
    for name, value in EXPECTED.items():
        if config.get(name) != value:
            raise UserError(f"config.json: {name} is {config.get(name)}, but only {value} is LLaVA-NeXT's")
    try:
        tokens = cast(Sequence[int] | None, config.get("vis_token_granularity"))
        return ReleaseConfig(
            llm={"model_type": LLMS[kind]} | {name: config[name] for name in config if name in LLM_SETTINGS},
            vision_tower=config["mm_vision_tower"],
            vision_feature_layer=config["mm_vision_select_layer"],
            vision_features=FEATURES[config.get("mm_vision_select_feature", "patch")],
            grid_pinpoints=[[height, width] for width, height in config["image_grid_pinpoints"]],
            granularities=None if tokens is None else Granularities.of_tokens(tokens),
            k=config.get("filtered_text_num", 32),
            margin=float(config.get("margin", 1.0)),
        )
    except KeyError as missing:
        raise UserError(f"config.json does not say {missing.args[0]}, which every LLaVA-NeXT's does") from missing


PREFIXES = (
    ("model.router.merger.", "router.fusion."),
    ("model.router.router.", "router.mlp."),
    ("model.router.", "router."),
    ("model.vision_tower.vision_tower.vision_model.", "backbone.hf.model.vision_tower."),
    ("model.mm_projector.0.", "backbone.hf.model.multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "backbone.hf.model.multi_modal_projector.linear_2."),
    ("model.image_newline", "backbone.hf.model.image_newline"),
    ("lm_head.", "backbone.hf.lm_head."),
    ("model.", "backbone.hf.model.language_model."),
)
"""Beginnings of names, theirs and ours; the first that fits counts, in either direction."""

VOTER = "router.voter"


def from_release(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The release's tensors by our names; a name of neither kind is kept, for whoever checks them to complain about."""
    kept = {name: tensor for name, tensor in weights.items() if not name.endswith(COMPUTED)}
    ours = {_renamed(name, 0): tensor for name, tensor in kept.items()}
    if VOTER in ours:
        ours[VOTER] = ours[VOTER].flatten()
    return ours


def to_release(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors by the release's names."""
    column = {name: tensor.unsqueeze(1) if name == VOTER else tensor for name, tensor in weights.items()}
    return {_renamed(name, 1): tensor for name, tensor in column.items()}


def _renamed(name: str, given: int) -> str:
    for prefixes in PREFIXES:
        if name.startswith(prefixes[given]):
            return prefixes[1 - given] + name.removeprefix(prefixes[given])
    return name


def is_llavas(folder: Path) -> bool:
    """Whether a model's folder is in LLaVA's own layout."""
    return read_json(folder / "config.json").get("model_type") in LLMS


def llava_next_config(folder: Path) -> LlavaNextConfig:
    """What transformers would call the model in a folder of LLaVA's own layout; errors as in `release_config`."""
    settings = release_config(read_json(folder / "config.json"))
    llm = config_of(settings.llm)
    return LlavaNextConfig(
        vision_config=config_of(_vision_settings(folder, settings.vision_tower)),
        text_config=llm,
        vision_feature_layer=settings.vision_feature_layer,
        vision_feature_select_strategy=settings.vision_features,
        image_grid_pinpoints=settings.grid_pinpoints,
        image_token_index=llm.vocab_size,
        tie_word_embeddings=llm.tie_word_embeddings,
    )


def llava_weights(folder: Path) -> FileWeights:
    """The backbone's tensors of a folder in LLaVA's own layout, the encoder's from where LLaVA fetches it if it must.

    Raises:
        UserError: there are none, or they cannot be read.
    """
    ours = {name: tensor for name, tensor in from_release(read_weights(folder)).items() if not _is_router(name)}
    weights = FileWeights({name.removeprefix(BACKBONE): ours[name] for name in ours}, weight_files(folder))
    if weights.part("vision_encoder").tensors:
        return weights
    tower = release_config(read_json(folder / "config.json")).vision_tower
    encoder = part_weights(weights_folder("mm_vision_tower", tower), "vision_encoder")
    return FileWeights({**weights.tensors, **encoder.tensors}, [*weights.files, *encoder.files])


def _is_router(name: str) -> bool:
    return name.startswith("router.")


def router_weights(folder: Path) -> dict[str, Tensor]:
    """The router's tensors of a folder of the authors', by its own names; none in a plain LLaVA-NeXT."""
    ours = from_release(read_weights(folder))
    return {name.removeprefix("router."): ours[name] for name in ours if _is_router(name)}


def _vision_settings(folder: Path, vision_tower: str) -> dict[str, Any]:
    """Settings of the vision encoder: beside the checkpoint, or from where LLaVA fetched it."""
    path = folder / "vision_config.json"
    if not path.is_file():
        path = config_folder("mm_vision_tower", vision_tower) / "config.json"
    config = read_json(path)
    vision = cast(dict[str, Any], config.get("vision_config") or config)
    return vision | {"model_type": "clip_vision_model"}
