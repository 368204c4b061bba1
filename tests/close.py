"""How close two results of the same computation must be, in units of their own size.

Float32 rounds to 6e-8 of a number, and sums to 1e-6 of their largest terms or so. An absolute bound says nothing of a
tensor of small entries and too much of one of large entries, so each is held to a share of its largest entry.
"""

import torch
from torch import Tensor

SHARE = 1e-5
"""Of a tensor's largest entry."""

AFTER_NORM = 5e-5
"""The same of what comes after a norm over a few numbers, which divides by how far they lie apart."""

CANCELLED = 1e-5
"""A gradient whose largest entry is below this share of the largest of all is a sum that cancels, such as that of the
bias of an encoder's keys, which adds the same to all that a softmax compares: what is left of it is rounding."""

ROUNDING = 1e-6
"""What such a gradient is held to, as a share of the largest of all."""


def share(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference as a share of their largest entry; infinite where shapes, integers, infinities differ."""
    if ours.shape != theirs.shape:
        return torch.inf
    if not theirs.is_floating_point():
        return 0.0 if torch.equal(ours.long(), theirs.long()) else torch.inf
    finite = theirs.isfinite()
    if not torch.equal(ours[~finite], theirs[~finite]) or not ours[finite].isfinite().all():
        return torch.inf
    ours, theirs = ours[finite].double(), theirs[finite].double()
    if torch.equal(ours, theirs):
        return 0.0
    largest = float(theirs.abs().max())
    return float((ours - theirs).abs().max()) / largest if largest else torch.inf


def gradient_share(ours: Tensor, theirs: Tensor, largest: float) -> float:
    """As `share`, in units of what is allowed; `largest` is that of all gradients of the model."""
    if ours.shape == theirs.shape and float(theirs.abs().max()) < CANCELLED * largest:
        return float((ours - theirs).abs().nan_to_num(nan=torch.inf).max()) / (ROUNDING * largest)
    return share(ours, theirs) / SHARE


def assert_close(ours: Tensor, theirs: Tensor, allowed: float = SHARE) -> None:
    """Hold two results against each other."""
    found = share(ours.detach(), theirs.detach())
    assert found <= allowed, f"differs by {found:.1e} of the largest entry, where {allowed:.0e} is allowed"
