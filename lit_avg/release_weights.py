"""The names of the authors' checkpoints and ours, both ways.

The release keeps LLaVA's names: the LLM's own beside `model.mm_projector`, `model.image_newline` and
`model.vision_tower.vision_tower`, and adds `model.router`. A plain LLaVA-NeXT in LLaVA's layout is the same without the
router. Ours are those of `AvgLlava.state_dict()`. The voter is (L, 1) there and (L,) here.
"""

from collections.abc import Mapping

from torch import Tensor

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

COMPUTED = ("rotary_emb.inv_freq", "embeddings.position_ids")
"""Ends of names of buffers that older checkpoints hold and every model computes for itself."""

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
