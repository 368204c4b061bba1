"""`lit-avg import-release`: a checkpoint of the authors', or any LLaVA-NeXT, to a folder of ours.

    lit-avg import-release SOURCE --out DIR

SOURCE is a folder or a hub id: an AVG-LLaVA checkpoint, a LLaVA-NeXT in LLaVA's own layout, or one in transformers'.
The folder that is written holds a plain LLaVA-NeXT of transformers and the router (see `lit_avg.pretrained.folder`). A
source without a router gets a fresh one, with the paper's semantics, for stage 4 to train.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor

from lit_avg.llava_next.backbone import Backbone
from lit_avg.model import AvgLlava
from lit_avg.pretrained.release import ReleaseConfig, from_release, release_config
from lit_avg.routing.router import GranularityRouter
from lit_avg.semantics import Semantics
from lit_avg.utils.atomic_io import whole_folder
from lit_avg.utils.command_line import VerbParser
from lit_avg.utils.errors import UserError
from lit_avg.utils.weight_io import load_exactly, read_json, read_weights
from lit_avg.visual_tokens.granularity import Granularities

CONFIGS = ["*.json"]
WEIGHTS = ["*.safetensors", "pytorch_model*.bin"]
VISION_TOWER = "backbone.hf.model.vision_tower."


def main(argv: list[str]) -> int:
    """Read SOURCE, write DIR.

    Raises:
        UserError: the source cannot be had, is no LLaVA-NeXT, or its tensors are not those its config calls for.
    """
    parser = VerbParser(prog="lit-avg import-release", description="Bring a released checkpoint into our format.")
    parser.add_argument("source", help="hub id or folder")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args(argv)
    out: Path = arguments.out
    if out.exists() and any(out.iterdir()):
        raise UserError(f"--out: {out} is not empty; name a folder that is not there yet")
    model = imported(arguments.source)
    with whole_folder(out) as partial:
        model.save_pretrained(partial)
    print(f"wrote {out}: granularities {list(model.granularities.tokens)}, {vars(model.semantics)}")
    return 0


def imported(source: str) -> AvgLlava:
    """The model of a checkpoint folder or hub id; errors as in `main`."""
    folder = local_folder(source, CONFIGS + WEIGHTS)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # of a fresh router
        return _imported(folder)


def _imported(folder: Path) -> AvgLlava:
    config = read_json(folder / "config.json")
    if config.get("model_type") == "llava_next":
        return _from_transformers(folder)
    settings = release_config(config)
    weights = from_release(read_weights(folder))
    vision = _vision_config(folder, settings.vision_tower)
    model = _built(settings, vision, has_router=any(name.startswith("router.") for name in weights))
    load_exactly(
        model, weights | _filled_in(model, weights, settings.vision_tower), str(folder), "its config.json describes"
    )
    return model.eval()


def local_folder(source: str, patterns: list[str]) -> Path:
    """A folder as it is; a hub id downloaded, only the files that fit the patterns.

    Raises:
        UserError: there is neither.
    """
    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(snapshot_download(source, allow_patterns=patterns))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(f"{source} is no folder, and cannot be had from the hub: {reason}") from error


def _built(settings: ReleaseConfig, vision: dict[str, Any], has_router: bool) -> AvgLlava:
    """The model that a config describes, with random weights."""
    backbone = partial(
        Backbone, vision_encoder=vision, llm=settings.llm, vision_feature_layer=settings.vision_feature_layer
    )
    router = partial(GranularityRouter, instruction_tokens=settings.k)
    semantics = Semantics("release" if has_router else "paper", margin=settings.margin)
    model = AvgLlava(backbone, settings.granularities or Granularities(), router, k=settings.k, semantics=semantics)
    model.backbone.hf.config.image_grid_pinpoints = settings.grid_pinpoints
    model.backbone.hf.config.vision_feature_select_strategy = settings.vision_features
    return model


def _filled_in(model: AvgLlava, weights: Mapping[str, Tensor], vision_tower: str) -> dict[str, Tensor]:
    """What a checkpoint may leave out: an encoder that was never trained, and, in a plain LLaVA-NeXT, the router."""
    if not any(name.startswith(VISION_TOWER) for name in weights):
        model.backbone.load_part("vision_encoder", vision_tower)
    absent = [part for part in (VISION_TOWER, "router.") if not any(name.startswith(part) for name in weights)]
    return {name: tensor for name, tensor in model.state_dict().items() if name.startswith(tuple(absent))}


def _vision_config(folder: Path, vision_tower: str) -> dict[str, Any]:
    """Settings of the vision encoder: beside the checkpoint, or from where LLaVA fetched it."""
    path = folder / "vision_config.json"
    if not path.is_file():
        path = local_folder(vision_tower, CONFIGS) / "config.json"
    config = read_json(path)
    vision = cast(dict[str, Any], config.get("vision_config") or config)
    return vision | {"model_type": "clip_vision_model"}


def _from_transformers(folder: Path) -> AvgLlava:
    """A LLaVA-NeXT in transformers' layout, and a fresh router."""
    return AvgLlava(partial(Backbone, pretrained=str(folder)), Granularities()).eval()
