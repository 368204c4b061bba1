"""`ReplayedLoader`: torch's loader, whose order follows from the run's random numbers, made to go on in mid-epoch."""

from collections.abc import Iterator
from typing import Any, Generic, TypeVar, cast

import torch
from torch.utils.data import DataLoader

Batch = TypeVar("Batch")


class ReplayedLoader(Generic[Batch]):
    """Remembers the random numbers that an epoch began with; who goes on draws the same order and skips what was shown.

    Args:
        loader: without workers, on one process.
    """

    def __init__(self, loader: DataLoader[Batch]) -> None:
        self.loader = loader
        self.began = torch.get_rng_state()
        self.yielded = 0
        self._resumes = False

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        """A new epoch, or the rest of the one that `load_state_dict` was given."""
        in_the_middle = self._resumes and 0 < self.yielded < len(self)
        self._resumes = False
        now = torch.get_rng_state()
        if in_the_middle:
            torch.set_rng_state(self.began)
        else:
            self.began, self.yielded = now, 0
        batches = cast(Any, iter(self.loader))
        for _ in range(self.yielded):
            batches._next_index()
        if in_the_middle:
            torch.set_rng_state(now)  # the model's numbers go on where they were
        for batch in batches:
            self.yielded += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Where it stands."""
        return {"began": self.began, "yielded": self.yielded}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.began, self.yielded, self._resumes = state["began"], state["yielded"], True
