"""Weights of the hub's encoders, LLMs and whole LLaVA-NeXTs, by the names that they have in a `Backbone`.

transformers' own loading makes a module of its own, holds all of it and fills what is missing with random numbers. Here
tensors stay in their files until each is wanted, and names and shapes have to be exactly those that are expected.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lit_avg.utils.errors import UserError
from lit_avg.utils.hashing import hash_of_json, kept_of_files
from lit_avg.utils.weight_io import read_json, read_weights, tensors_hash, weight_files

LLAVA_NEXT = "llava_next"

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

EMBEDDINGS = "model.language_model.embed_tokens.weight"

NAMES: Mapping[str, tuple[str, ...]] = {
    "vision_encoder": ("model.vision_tower.",),
    "connector": ("model.multi_modal_projector.", "model.image_newline"),
    "llm": ("model.language_model.", "lm_head."),
}
"""How the names of each part's tensors begin in transformers' module."""


@dataclass(frozen=True)
class FileWeights:
    """Tensors of mapped files, by the names that they have in transformers' LLaVA-NeXT."""

    tensors: Mapping[str, Tensor]
    files: Sequence[Path]

    def part(self, part: str) -> "FileWeights":
        """Those of one part."""
        own = {name: tensor for name, tensor in self.tensors.items() if name.startswith(NAMES[part])}
        return FileWeights(own, self.files)

    def without(self, beginnings: tuple[str, ...]) -> "FileWeights":
        """Those whose names do not begin so."""
        own = {name: tensor for name, tensor in self.tensors.items() if not name.startswith(beginnings)}
        return FileWeights(own, self.files)

    def with_head(self, tied: bool) -> "FileWeights":
        """With the LM head, which is in no file where it is `tied` to the embeddings."""
        if not tied or HEAD in self.tensors or EMBEDDINGS not in self.tensors:
            return self
        return FileWeights({**self.tensors, HEAD: self.tensors[EMBEDDINGS]}, self.files)

    def head_differs(self) -> bool:
        """Whether there are an LM head and embeddings, and they are not the same."""
        both = [self.tensors[name] for name in (HEAD, EMBEDDINGS) if name in self.tensors]
        return len(both) == 2 and not torch.equal(both[0], both[1])

    def sha256(self) -> str:
        """As `tensors_hash` has it, in the order of names; the files are read for it once."""
        in_order = sorted(self.tensors)
        what = f"tensors {hash_of_json(in_order)}"
        return kept_of_files(self.files, what, lambda: tensors_hash(self.tensors[name] for name in in_order))


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
        raise UserError(f"{source} is a model of type {found}, but {wanted} is wanted here{_instead(found)}")


def _instead(found: object) -> str:
    """What to do about it, for a message."""
    return "; a whole LLaVA-NeXT is the backbone's `pretrained`" if str(found).startswith("llava") else ""


def part_weights(folder: Path, part: str) -> FileWeights:
    """The tensors of a folder with an encoder or an LLM.

    Args:
        folder: in transformers' format.
        part: `vision_encoder` or `llm`.

    Raises:
        UserError: there are no weights, or they cannot be read.
    """
    inner, place = INNER[part], NAMES[part][0]
    beside = BESIDE_AN_ENCODER if part == "vision_encoder" else ()
    named = {name: tensor for name, tensor in _own(read_weights(folder)).items() if not name.startswith(beside)}
    whole = {name if name == HEAD else place + name.removeprefix(inner): tensor for name, tensor in named.items()}
    return FileWeights(whole, weight_files(folder))


def whole_weights(folder: Path) -> FileWeights:
    """The tensors of a LLaVA-NeXT in transformers' format.

    Raises:
        UserError: there are none, or they cannot be read.
    """
    named = {_renamed(name): tensor for name, tensor in _own(read_weights(folder)).items()}
    return FileWeights(named, weight_files(folder))


def _own(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if not name.endswith(COMPUTED)}


def _renamed(name: str) -> str:
    for before, now in OF_WHOLE:
        if name.startswith(before):
            return now + name.removeprefix(before)
    return name
