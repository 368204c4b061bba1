"""Which weights a checkpoint's backbone has, told from the file alone, without building or loading a model.

The hashes are those of `lit_avg.left_out.part_hash`. Tensors are read from the file as they are hashed, so that a 7B
model needs no memory of its own.
"""

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor

from lit_avg.checkpoints import RUN_BEFORE, SCALER, checkpoint_path, read_checkpoint
from lit_avg.left_out import LEFT_OUT_KEY, LeftOut, hash_in_checkpoint
from lit_avg.llava_next.backbone import BackbonePart
from lit_avg.utils.errors import UserError
from lit_avg.utils.weight_io import tensors_hash


def base_weights(source: str) -> dict[str, str]:
    """SHA-256 of what lies below the router in a run's newest checkpoint, or in a checkpoint file.

    Returns:
        A hash for each part of the backbone, and for the `scaler` if it has learned anything.

    Raises:
        UserError: there is no checkpoint, or it has no backbone.
    """
    path = checkpoint_path(source)
    if not path.is_file():
        raise UserError(f"there is no checkpoint at {path}; {RUN_BEFORE}")
    checkpoint: dict[str, Any] = read_checkpoint(path)
    left_out = cast(Mapping[BackbonePart, LeftOut], checkpoint.get(LEFT_OUT_KEY, {}))
    weights = cast(dict[str, Tensor], checkpoint["state_dict"])
    hashes = dict[str, str]()
    for part in ("vision_encoder", "connector", "llm"):
        sha256 = left_out[part]["sha256"] if part in left_out else hash_in_checkpoint(weights, part)
        if sha256 is None:
            raise UserError(f"{path} has no {part.replace('_', ' ')}; name a run of stage 3")
        hashes[part] = sha256
    if learned := sorted(name for name in weights if name.startswith(SCALER)):
        hashes["scaler"] = tensors_hash(weights[name] for name in learned)
    return hashes
