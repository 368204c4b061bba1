"""What a checkpoint leaves out: frozen parts that lie elsewhere already, and by which hash they are known again.

A router of 100 million parameters need not be saved with the 7 billion it was trained beside. A part is left out if it
is frozen and came from an earlier run or from pretrained weights; the checkpoint keeps its origin and the SHA-256 of
the values that lie there, and another base model is refused. What precision a run computes in, and so rounds them to,
makes no difference.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

from torch import Tensor

from lit_avg.llava_next.backbone import ORIGINAL_PARTS, Backbone, BackbonePart
from lit_avg.llava_next.lora import is_of_adapter, plain_name
from lit_avg.runs.origins import Origin
from lit_avg.utils.distributed import is_sharded
from lit_avg.utils.errors import UserError
from lit_avg.utils.weight_io import hashes_with_types, tensors_hash

EXTERNAL_WEIGHTS_KEY = "lit_avg_left_out"
"""Entry of a checkpoint with a `ExternalWeights` for every part that it leaves out."""

_LLM = ("model.backbone.hf.model.language_model.", "model.backbone.hf.lm_head.")

_BEGINNINGS: Mapping[BackbonePart, tuple[str, ...]] = {
    "vision_encoder": ("model.backbone.hf.model.vision_tower.",),
    "connector": ("model.backbone.hf.model.multi_modal_projector.", "model.backbone.hf.model.image_newline"),
    "llm": _LLM,
    "llm_adapter": _LLM,
}
"""How the names of each part's tensors begin in a checkpoint; an adapter's lie within the LLM's."""


class ExternalWeights(TypedDict):
    """Where a part's weights are."""

    origin: str  # a run directory, a checkpoint or a folder of pretrained weights, absolute, or a hub id
    is_run: bool
    beside: str  # but for a hub id: its path as seen from the run that leaves the part out, so that both may move
    sha256: str  # of the part's tensors
    checkpoint: NotRequired[str]  # of a run: SHA-256 of its checkpoint's file
    of_whole: NotRequired[bool]  # of pretrained weights: they are of a whole LLaVA-NeXT


def frozen_parts_of_run(backbone: Backbone, part: BackbonePart, origin: Origin) -> ExternalWeights:
    """A part that was taken over from an earlier run."""
    return ExternalWeights(
        origin=origin["place"],
        is_run=True,
        beside=origin["beside"],
        sha256=part_hash(backbone, part),
        checkpoint=origin["sha256"],
    )


def parts_of_run(
    backbone: Backbone, frozen: Sequence[BackbonePart], origin: Origin
) -> dict[BackbonePart, ExternalWeights]:
    """Frozen parts of a backbone that was taken over from an earlier run, but for an adapter that did not come so."""
    parts: list[BackbonePart] = [part for part in frozen if part != "llm_adapter" or part in backbone.hash_of_origin]
    return {part: frozen_parts_of_run(backbone, part, origin) for part in parts}


def parts_of_pretrained(
    backbone: Backbone, frozen: Sequence[BackbonePart], run: Path
) -> dict[BackbonePart, ExternalWeights]:
    """Frozen parts of a backbone that was pretrained as a whole, for the checkpoints of `run`; none of any other."""
    source = backbone.pretrained
    own: list[BackbonePart] = [part for part in frozen if part in ORIGINAL_PARTS]
    if source is None:
        return {}
    return {part: external_weights_of_pretrained(backbone, part, source, run, of_whole=True) for part in own}


def external_weights_of_pretrained(
    backbone: Backbone, part: BackbonePart, origin: str, run: Path, of_whole: bool = False
) -> ExternalWeights:
    """A part that was loaded from pretrained weights, its own or a whole model's, for the checkpoints of `run`."""
    place, beside = origin, ""
    if Path(origin).is_dir():
        place = os.path.abspath(origin)  # noqa: PTH100  not where links lead
        beside = os.path.relpath(place, run.absolute())
    external = ExternalWeights(origin=place, is_run=False, beside=beside, sha256=part_hash(backbone, part))
    return {**external, "of_whole": True} if of_whole else external


def names_of(backbone: Backbone, part: BackbonePart) -> set[str]:
    """The names of a part's parameters in the backbone's state dict, tied ones under each of their names."""
    own = {id(parameter) for parameter in backbone.parameters_of(part)}
    named = backbone.named_parameters(remove_duplicate=False)
    return {name for name, parameter in named if id(parameter) in own}


def hash_in_checkpoint(weights: Mapping[str, Tensor], part: BackbonePart) -> str | None:
    """SHA-256 of a part's tensors in a checkpoint's state dict; None if it is not there."""
    names = [name for name in weights if name.startswith(_BEGINNINGS[part])]
    names = sorted((name for name in names if is_of_adapter(name) == (part == "llm_adapter")), key=plain_name)
    return tensors_hash(weights[name] for name in names) if names else None


def part_hash(backbone: Backbone, part: BackbonePart) -> str:
    """SHA-256 of a part's parameters, in the order of their names, as they lay where the part was taken from.

    Of an LLM that is not loaded it is what is known of it.
    """
    if part == "llm" and backbone.llm_not_loaded is not None:
        return backbone.llm_not_loaded
    if part in backbone.hash_of_origin:
        return backbone.hash_of_origin[part]()
    return tensors_hash(_tensors_of(backbone, part))


def _tensors_of(backbone: Backbone, part: BackbonePart) -> list[Tensor]:
    named = dict(backbone.named_parameters(remove_duplicate=False))
    return [named[name].detach() for name in sorted(names_of(backbone, part), key=plain_name)]


def _earlier_hashes(backbone: Backbone, part: BackbonePart) -> Iterator[str]:
    """As `hashes_with_types`; none where ranks share the weights, which no checkpoint of that time knew."""
    return iter(()) if is_sharded(backbone) else hashes_with_types(_tensors_of(backbone, part))


def check_frozen_parts(
    backbone: Backbone, external_weights: Mapping[BackbonePart, ExternalWeights], source: str
) -> None:
    """Refuse to put what a checkpoint holds on top of another base than it was trained on.

    Raises:
        UserError: names the part, where it was looked for, and both hashes.
    """
    for part, known in external_weights.items():
        found = part_hash(backbone, part)
        if found != known["sha256"] and known["sha256"] not in _earlier_hashes(backbone, part):
            raise UserError(
                f"{source} was trained with another {part.replace('_', ' ')} than {known['origin']} now holds "
                f"(SHA-256 {known['sha256'][:12]}, found {found[:12]}); bring that one back or train this stage anew"
            )
