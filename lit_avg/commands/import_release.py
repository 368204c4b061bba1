"""`lit-avg import-release`: a checkpoint of the authors', or any LLaVA-NeXT, to a folder of ours.

    lit-avg import-release SOURCE --out DIR

SOURCE is a folder or a hub id: an AVG-LLaVA checkpoint, a LLaVA-NeXT in LLaVA's own layout, or one in transformers'.
The folder that is written holds a plain LLaVA-NeXT of transformers, the router (see `lit_avg.pretrained.folder`) and
the source's tokenizer. A source without a router gets a fresh one, with the paper's semantics and the levels of its
encoder's own grid, for stage 4 to train.
"""

import shutil
from functools import partial, reduce
from pathlib import Path

import torch

from lit_avg.llava_next.backbone import BACKBONE_PARTS, Backbone
from lit_avg.llava_next.hf_model import weights_to_come
from lit_avg.llava_next.llava_layout import ReleaseConfig, release_config, router_weights
from lit_avg.model import AvgLlava
from lit_avg.pretrained.folder import made_in
from lit_avg.routing.router import GranularityRouter
from lit_avg.semantics import Semantics
from lit_avg.utils.atomic_io import whole_folder
from lit_avg.utils.command_line import VerbParser
from lit_avg.utils.errors import UserError
from lit_avg.utils.hub import files_beside, weights_folder
from lit_avg.utils.weight_io import load_exactly, read_json, read_weights
from lit_avg.visual_tokens.granularity import Granularities
from lit_avg.visual_tokens.scaler import Pooling

TOKENIZER = (
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json", "preprocessor_config.json"),
)
"""What a source may have of a tokenizer, its chat template and how images are prepared; it is kept as it is."""


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
        for file in files_beside(arguments.source, TOKENIZER):
            shutil.copy(file, partial / file.name)
    print(f"wrote {out}: granularities {list(model.granularities.tokens)}, {vars(model.semantics)}")
    return 0


def imported(source: str) -> AvgLlava:
    """The model of a checkpoint folder or hub id, in the precision that it lies in there; errors as in `main`."""
    folder = weights_folder("SOURCE", source)
    config = read_json(folder / "config.json")
    settings = None if config.get("model_type") == "llava_next" else release_config(config)
    with made_in(_precision(folder)), torch.random.fork_rng():
        torch.manual_seed(0)  # of a fresh router
        return (_with_fresh_router(folder) if settings is None else _authors(folder, settings)).eval()


def _precision(folder: Path) -> torch.dtype:
    """The type of numbers that holds all of a folder's tensors, whatever its config says."""
    types = {tensor.dtype for tensor in read_weights(folder).values() if tensor.is_floating_point()}
    return reduce(torch.promote_types, types, next(iter(types), torch.get_default_dtype()))


def _authors(folder: Path, settings: ReleaseConfig) -> AvgLlava:
    """A model in LLaVA's own layout, with its router if it has one."""
    weights = router_weights(folder)
    if not weights:
        return _with_fresh_router(folder, settings)
    backbone = partial(Backbone, pretrained=str(folder))
    router = partial(GranularityRouter, instruction_tokens=settings.k)
    semantics = Semantics("release", margin=settings.margin)
    model = AvgLlava(backbone, settings.granularities or Granularities(), router, k=settings.k, semantics=semantics)
    load_exactly(model.router, weights, f"{folder}: model.router", "its config.json describes")
    return model


def _with_fresh_router(folder: Path, settings: ReleaseConfig | None = None) -> AvgLlava:
    """A LLaVA-NeXT and a fresh router, for the levels of its encoder's own grid."""
    with weights_to_come(BACKBONE_PARTS), torch.random.fork_rng(devices=[]):
        side = Backbone(pretrained=str(folder)).grid_side
    levels = Granularities.of_side(side)
    router = partial(GranularityRouter, instruction_tokens=32 if settings is None else settings.k)
    pooling: Pooling = "average" if levels.step else "adaptive_average"
    return AvgLlava(partial(Backbone, pretrained=str(folder)), levels, router, pooling)
