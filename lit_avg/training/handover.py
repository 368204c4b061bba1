"""What one stage hands the next, and what keeps a run from continuing as another.

`init_from` takes weights only, from a stage that may come before. Continuing the same run is Lightning's business
(`--ckpt_path`, `--resume auto`) and asks for the same stage and the same hyperparameters. Which weights a checkpoint's
backbone has, its file alone tells, by the hashes of `lit_avg.training.frozen_parts.part_hash`: tensors are read as they
are hashed, so that a 7B model needs no memory of its own.
"""

from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from torch import Tensor

from lit_avg.llava_next.backbone import BACKBONE_PARTS, Backbone, BackbonePart
from lit_avg.llava_next.hf_model import LLM_LAYERS
from lit_avg.llava_next.lora import check_same_scale, plain_name
from lit_avg.model import AvgLlava
from lit_avg.runs.consolidation import weights_path
from lit_avg.runs.origins import Origin, beside, folder_now, found_again
from lit_avg.runs.recorded_hashes import check_undamaged
from lit_avg.runs.run_folder import checkpoint_path, run_of
from lit_avg.training.frozen_parts import (
    EXTERNAL_WEIGHTS_KEY,
    ExternalWeights,
    check_frozen_parts,
    hash_in_checkpoint,
    names_of,
)
from lit_avg.utils.errors import UserError
from lit_avg.utils.hashing import kept_of_files
from lit_avg.utils.mapped_weights import fill
from lit_avg.utils.weight_io import check_fit, tensors_hash

_NO_MATTER = ("_instantiator", "policies", "metrics")
"""Hyperparameters that weights do not depend on: who made the stage, and what a test compares and measures."""

_PLACES = ("init_from", "feedback", "pretrained_parts.vision_encoder", "pretrained_parts.llm")
"""Hyperparameters that say where something lies; what lies there is compared by its hash, wherever that is."""

RUN_BEFORE = "run the stage before this one (in a study: remove its folder and sweep again), or name its folder"
"""What to do where a checkpoint is missing."""

_BACKBONE = "model.backbone."

SCALER = "model.scaler."
"""How the names of those tensors of a checkpoint begin that the scaler has learned, if it learns."""

_LLM_LAYERS = tuple(f"{_BACKBONE}hf.{beginning}" for beginning in LLM_LAYERS)

ADAPTER_KEY = "lit_avg_adapter"
"""Entry of a checkpoint with `LoRA.scale` of the LLM's adapter, where there is one."""

STAGE_KEY = "lit_avg_stage"
"""Entry of a checkpoint that names the stage it belongs to."""


def initialise_from(model: AvgLlava, source: str, allowed_stages: Sequence[str]) -> None:
    """Load the backbone that an earlier stage trained, and what its scaler learned; the router keeps its fresh weights.

    Args:
        model: takes the weights.
        source: a run directory or a checkpoint file.
        allowed_stages: class names of the stages that may come before.

    Raises:
        UserError: nothing is there, it is another stage's, its weights do not fit, or what it leaves out is gone.
    """
    checkpoint = read_checkpoint(_existing(source))
    stage = checkpoint.get(STAGE_KEY, "another program")
    if stage not in allowed_stages:
        raise UserError(
            f"init_from: {source} is a checkpoint of {stage}, but this stage starts from {' or '.join(allowed_stages)}"
        )
    _take_over(model.backbone, checkpoint, source)
    weights = cast(dict[str, Tensor], checkpoint["state_dict"])
    learned = {name.removeprefix(SCALER): tensor for name, tensor in weights.items() if name.startswith(SCALER)}
    if learned and model.scaler.pooling != "learned":
        raise UserError(
            f"init_from: {source} has a scaler that learned its pooling, so here it has to be `learned`, too"
        )
    model.scaler.load_state_dict(
        learned, strict=False
    )  # levels may be left out, and the stage before may have had none


def _existing(source: str) -> Path:
    path = weights_path(source)
    if not path.is_file():
        raise UserError(f"init_from: there is no checkpoint at {path}; {RUN_BEFORE}")
    return path


def _take_over(backbone: Backbone, checkpoint: Mapping[str, Any], source: str, llm_wanted: bool = True) -> None:
    """First what a checkpoint leaves out, from where it came, then what it holds.

    An LLM that is not loaded is known by the hash of the one that is wanted; an earlier stage's may be another.
    """
    external_weights = cast(Mapping[BackbonePart, ExternalWeights], checkpoint.get(EXTERNAL_WEIGHTS_KEY, {}))
    for origin in {part["origin"]: part for part in external_weights.values() if part["is_run"]}.values():
        before = _origin_of(origin, source)
        has_the_llm = "llm" in external_weights and external_weights["llm"]["origin"] == origin["origin"]
        _take_over(backbone, read_checkpoint(_existing(before)), before, llm_wanted and has_the_llm)
    for name, part in external_weights.items():
        if part["is_run"]:
            continue
        folder = folder_now(part["origin"], part["beside"], run_of(checkpoint_path(source)))
        if part.get("of_whole"):
            backbone.load_part_of_whole(name, folder)
        elif name in ("vision_encoder", "llm"):
            backbone.load_part(name, folder)
    if ADAPTER_KEY in checkpoint:
        check_same_scale(backbone.lora, checkpoint[ADAPTER_KEY], f"init_from: {source}")
        backbone.add_adapter()
    weights, path = _backbone_weights(backbone, checkpoint["state_dict"]), weights_path(source)
    for part in _parts_of(checkpoint):
        if part not in external_weights:
            backbone.hash_of_origin[part] = cache(partial(_hash_of, path, checkpoint["state_dict"], part))
    kept_elsewhere = {name for part in external_weights for name in names_of(backbone, part)}
    check_fit(backbone, weights, f"init_from: {source}", "this config describes", kept_elsewhere, [path])
    fill(backbone, weights)
    unknown = backbone.llm_not_loaded is not None and not llm_wanted
    check_frozen_parts(
        backbone, {name: part for name, part in external_weights.items() if name != "llm" or not unknown}, source
    )


def _parts_of(checkpoint: Mapping[str, Any]) -> list[BackbonePart]:
    """The parts of a checkpoint's backbone, be they in it or elsewhere."""
    return [part for part in BACKBONE_PARTS if part != "llm_adapter" or ADAPTER_KEY in checkpoint]


def _backbone_weights(backbone: Backbone, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a checkpoint has of a backbone, by the names that it has there, with and without an adapter."""
    there = {plain_name(name): name for name in backbone.state_dict()}
    plain = {
        plain_name(name.removeprefix(_BACKBONE)): tensor
        for name, tensor in saved.items()
        if name.startswith(_BACKBONE) and not (backbone.llm_not_loaded and name.startswith(_LLM_LAYERS))
    }
    return {there.get(name, name): tensor for name, tensor in plain.items()}


def _hash_of(path: Path, weights: Mapping[str, Tensor], part: BackbonePart) -> str:
    """As `hash_in_checkpoint`, and empty if the part is not there; a checkpoint's file is read for it once."""
    return kept_of_files([path], f"{part} of a checkpoint", lambda: hash_in_checkpoint(weights, part) or "")


def _origin_of(part: ExternalWeights, source: str) -> str:
    """The run that a left-out part came from: where it lies beside this run, where it lay at all, or found by hash."""
    run = run_of(checkpoint_path(source))
    origin = Origin(place=part["origin"], beside=part["beside"], sha256=part.get("checkpoint", ""))
    if origin["sha256"] and (found := found_again(origin, run)) is not None:
        return found
    place = beside(run, part["beside"])
    return place if Path(place).exists() else part["origin"]


def pretrained_origin(source: str, part: BackbonePart) -> str:
    """Hub id or folder of the pretrained weights that a part of a run's backbone still has.

    Raises:
        UserError: a run has trained the part, it began at random, or lies in a whole model alone.
    """
    path = _existing(source)
    external_weights = cast(Mapping[BackbonePart, ExternalWeights], read_checkpoint(path).get(EXTERNAL_WEIGHTS_KEY, {}))
    if part not in external_weights:
        raise UserError(
            f"the {part.replace('_', ' ')} of {path} is no pretrained one as it is on the hub or in a folder"
        )
    known = external_weights[part]
    if known["is_run"]:
        return pretrained_origin(_origin_of(known, source), part)
    if known.get("of_whole"):
        raise UserError(f"the {part.replace('_', ' ')} of {path} is a part of {known['origin']} and nowhere by itself")
    return folder_now(known["origin"], known["beside"], run_of(path))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content on the CPU, without running any code in it.

    Raises:
        UserError: the file is not a checkpoint, or not the one that its run has recorded.
    """
    check_undamaged(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, UnpicklingError, EOFError) as error:
        raise UserError(f"{path} cannot be read as a checkpoint; it is another kind of file, or cut short") from error


def check_same_run(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Refuse to continue a run with another stage or with other hyperparameters.

    Args:
        saved: the checkpoint's hyperparameters, nested as in the YAML, with the stage's `_class_path`.
        current: those of this run.

    Raises:
        UserError: names every hyperparameter that differs, with both values.
    """
    before, now = _flat(saved), _flat(current)
    if before.get("_class_path") != now.get("_class_path"):
        raise UserError(
            f"this checkpoint belongs to {before.get('_class_path')}, but the config runs {now.get('_class_path')}; "
            "hand weights to another stage with init_from"
        )
    differing = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key) and key not in _NO_MATTER]
    differing = [key for key in differing if key not in _PLACES or None in (before.get(key), now.get(key))]
    if differing:
        changes = ", ".join(f"{key}: {before.get(key)} -> {now.get(key)}" for key in differing)
        raise UserError(
            f"this checkpoint was made with other hyperparameters ({changes}); change them back or start anew"
        )


def plain(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters that a checkpoint keeps: those that can be read back without running code."""
    return {name: value for name, value in hyperparameters.items() if is_plain(value)}


def is_plain(value: object) -> bool:
    """Whether a hyperparameter is made of what YAML can say, as all are when a run comes from the command line."""
    if isinstance(value, Mapping):
        return all(is_plain(item) for item in cast(Mapping[object, object], value).values())
    if isinstance(value, list | tuple):
        return all(is_plain(item) for item in cast(Sequence[object], value))
    return value is None or isinstance(value, str | int | float | bool)


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} to {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= _flat(cast(Mapping[str, Any], value), f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def base_weights(source: str) -> dict[str, str]:
    """SHA-256 of what lies below the router in a run's newest checkpoint, or in a checkpoint file.

    Returns:
        A hash for each part of the backbone, and for the `scaler` if it has learned anything.

    Raises:
        UserError: there is no checkpoint, or it has no backbone.
    """
    path = weights_path(source)
    if not path.is_file():
        raise UserError(f"there is no checkpoint at {path}; {RUN_BEFORE}")
    checkpoint: dict[str, Any] = read_checkpoint(path)
    external_weights = cast(Mapping[BackbonePart, ExternalWeights], checkpoint.get(EXTERNAL_WEIGHTS_KEY, {}))
    weights = cast(dict[str, Tensor], checkpoint["state_dict"])
    hashes = dict[str, str]()
    for part in _parts_of(checkpoint):
        sha256 = external_weights[part]["sha256"] if part in external_weights else _hash_of(path, weights, part)
        if not sha256:
            raise UserError(f"{path} has no {part.replace('_', ' ')}; name a run of stage 3")
        hashes[part] = sha256
    if learned := sorted(name for name in weights if name.startswith(SCALER)):
        hashes["scaler"] = tensors_hash(weights[name] for name in learned)
    return hashes
