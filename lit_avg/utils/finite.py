"""Numbers that are not finite, NaN and infinities, are no numbers to go on with: how they are found and told.

An infinite log-prob is refused like the rest. In float32, where they are computed, a finite logit always has a finite
one; and the losses, which subtract log-probs from one another, make a NaN of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lit_avg.utils.errors import UserError

NAMED = 32
"""Samples that a message names; of more it tells how many."""


def non_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors with a number that is not finite; of a sharded one this process's part counts.

    Nothing as large as a tensor is made on the way, and a device is waited for once.
    """
    own = {name: _own_part(tensor).detach() for name, tensor in tensors.items()}
    asked = {name: tensor for name, tensor in own.items() if tensor.is_floating_point() and tensor.numel()}
    finite = [torch.stack(tensor.aminmax()).isfinite().all() for tensor in asked.values()]  # a NaN is both of them
    by_device = {flag.device: [one for one in finite if one.device == flag.device] for flag in finite}
    known = {device: iter(torch.stack(flags).tolist()) for device, flags in by_device.items()}
    return [name for name, flag in zip(asked, finite, strict=True) if not next(known[flag.device])]


def check_weights(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that are not finite.

    Raises:
        UserError: names the first of them.
    """
    if names := non_finite(tensors):
        more = f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
        raise UserError(
            f"{source}: {names[0]}{more} has numbers that are not finite, so it computes nothing; train it anew with a "
            "lower learning rate, or take an earlier checkpoint"
        )


def check_values(keys: Sequence[str], values: Tensor, what: str, mend: str) -> None:
    """Refuse numbers of questions that are not finite.

    Args:
        keys: of Q questions.
        values: (Q, N).
        what: they are, in the plural.
        mend: what to do about it.

    Raises:
        UserError: names the questions.
    """
    wrong = (~values.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if wrong:
        names = named([keys[int(question)] for question in wrong])
        raise UserError(f"{what} are not finite for {len(wrong)} of {len(keys)} questions ({names}); {mend}")


def check_scores(keys: Sequence[str], scores: Tensor) -> None:
    """Refuse a router's log-probabilities (Q, N) that are not finite.

    Raises:
        UserError: names the questions.
    """
    mend = "a router that cannot score chooses nothing: train it anew with a lower learning rate"
    check_values(keys, scores, "the router's scores", mend)


def check_feedback(keys: Sequence[str], log_probs: Tensor) -> None:
    """Refuse log-probs of answers (Q, N) that are not finite.

    Raises:
        UserError: names the questions.
    """
    mend = "look at these samples and at image_mean and image_std, or compute in bf16 or float32"
    check_values(keys, log_probs, "the model's log-probs of the answers", mend)


def named(keys: Sequence[str]) -> str:
    """Samples in a message, each once."""
    different = list(dict.fromkeys(keys))
    more = f" and {len(different) - NAMED} more" if len(different) > NAMED else ""
    return ", ".join(different[:NAMED]) + more


def _own_part(tensor: Tensor) -> Tensor:
    """What this process has of a tensor that FSDP2 or ZeRO-3 has spread over all.

    ZeRO-3 makes all parts alike by filling up the last with whatever lay in memory, which is no part of the tensor.
    """
    if isinstance(tensor, DTensor):
        return tensor.to_local()
    if not hasattr(tensor, "ds_tensor"):
        return tensor
    partitioned = cast(Any, tensor)
    part = cast(Tensor, partitioned.ds_tensor).flatten()
    begins = int(partitioned.ds_zero_partition_rank) * len(part)
    return part[: max(0, int(partitioned.ds_numel) - begins)]
