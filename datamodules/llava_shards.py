"""`LLaVAShards`: any data that `lit-avg shard` has packed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from datamodules.base import ShardsDataModule
from datamodules.loading.mixture import WeightedShards, check_mixture
from datamodules.shards.manifest import MANIFEST
from datamodules.shards.reader import held_out, kinds_in
from datamodules.splits import NAMES
from lit_avg.data import Split
from lit_avg.utils.errors import UserError

MAX_LOOKED_THROUGH = 50_000
"""Samples of a test whose kinds are found out before anything is run: that takes a second or a few."""


class LLaVAShards(ShardsDataModule):
    """Conversations in LLaVA's form, from folders of shards, here or elsewhere.

    Args:
        train: folder with the training shards, or another location of shards as in `datamodules.shards.sources`; or
            several with weights, as in `datamodules.loading.mixture`.
        val: where the validation shards are.
        test: where the test shards are; the validation split if not given.
        val_share: instead of `val`, the share of the training folder's samples to keep for validation, chosen by
            their keys. Samples about the same image may then fall on both sides: `lit-avg shard --val-share` keeps
            them together.
        **kwargs: of `ShardsDataModule`.

    Raises:
        UserError: the mixture is none, both `val` and `val_share` are given, or the share is none.
    """

    def __init__(
        self,
        train: str | list[WeightedShards],
        *,
        val: str | None = None,
        test: str | None = None,
        val_share: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if val is not None and val_share:
            raise UserError("give either `val`, a folder of its own, or `val_share`, a part of `train`")
        if not 0 <= val_share < 1:
            raise UserError(f"val_share is a share from 0 to below 1, but is {val_share}")
        self.val_share = val_share
        training = [WeightedShards(train)] if isinstance(train, str) else train
        check_mixture(training)
        validation = [WeightedShards(val)] if val is not None else training if val_share else []
        self.of_split = {
            "train": training,
            "val": validation,
            "test": [WeightedShards(test)] if test else validation,
        }

    def sources(self, split: Split) -> list[WeightedShards]:
        """The folders that were given for it."""
        return self.of_split[split]

    def keeps(self, split: Split) -> Callable[[str], bool] | None:
        """With `val_share`, each sample of the training data belongs to one side of it."""
        if self.of_split[split] != self.of_split["train"] or not self.val_share:
            return None
        return lambda key: held_out(key, self.val_share) == (split != "train")

    def share(self, split: Split) -> float:
        """With `val_share`, what it leaves to either side; a split in a folder of its own might have any size."""
        if not self.val_share:
            return super().share(split)
        return 1 - self.val_share if split == "train" else self.val_share

    def why_empty(self, split: Split) -> str:
        """With `val_share`, what to choose instead."""
        if self.keeps(split) is None:
            return super().why_empty(split)
        total = sum(part.manifest.samples for part in self.samples(split).parts)
        mend = "lower" if split == "train" else "raise"
        return (
            f"the {NAMES[split]} split has no samples: val_share {self.val_share:g} of the {total} samples of `train` "
            f"leaves it none; {mend} val_share, or give `val` a location of its own"
        )

    @property
    def question_kinds(self) -> tuple[str, ...] | None:
        """The kinds of a test's questions; None if the shards do not lie here, or are too many to look through."""
        if not all((Path(source.shards) / MANIFEST).is_file() for source in self.sources("test")):
            return None
        parts = self.samples("test").parts
        if not parts or sum(len(part) for part in parts) > MAX_LOOKED_THROUGH:
            return None
        return tuple(sorted({kind for part in parts for kind in kinds_in(part)}))
