"""`Jersey`: the embedded data set, drawn on first use and then read like any other shards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from datamodules.base import ShardsDataModule
from datamodules.jersey.drawing import CELL
from datamodules.jersey.labels import GRID_PINPOINTS, SIDE
from datamodules.jersey.questions import QUESTIONS
from datamodules.jersey.writing import JerseySettings, cached
from datamodules.shard_cache import default_cache


class Jersey(ShardsDataModule):
    """Pictures of one player in a crowd with five independent questions on each.

    Args:
        batch_size: pictures a step.
        pictures_train: pictures to learn from.
        pictures_val: pictures of the validation split.
        pictures_test: pictures of the test split.
        picture_seed: seed of the pictures; another one gives another data set.
        cache_dir: where data sets are kept; $LIT_AVG_CACHE or ~/.cache/lit_avg if not given.
        pack_questions: put a picture's questions behind one visual prefix, instead of into a row each.
        workers: processes that load data.
        seed: seed of the order of the training pictures.
        grid_pinpoints: (height, width) of the planes pictures are tiled in; none for a single view.
        eval_batch_size: pictures a step in evaluation; `batch_size` if not given.
    """

    question_kinds = tuple(QUESTIONS)

    def __init__(
        self,
        batch_size: int = 24,
        pictures_train: int = 6000,
        pictures_val: int = 500,
        pictures_test: int = 1000,
        picture_seed: int = 0,
        cache_dir: str | None = None,
        pack_questions: bool = True,
        workers: int = 0,
        seed: int = 0,
        grid_pinpoints: Sequence[Sequence[int]] | None = GRID_PINPOINTS,
        eval_batch_size: int | None = None,
    ) -> None:
        super().__init__(
            tokenizer="jersey",
            batch_size=batch_size,
            tile_size=SIDE * CELL,
            grid_pinpoints=None if grid_pinpoints is None else [list(pinpoint) for pinpoint in grid_pinpoints],
            system_prompt=None,
            independent_turns=True,
            pack_questions=pack_questions,
            workers=workers,
            seed=seed,
            eval_batch_size=eval_batch_size,
        )
        self.settings = JerseySettings(pictures_train, pictures_val, pictures_test, picture_seed)
        self.cache = Path(cache_dir) if cache_dir else default_cache()

    def manifests(self) -> list[Path]:
        """None: the settings decide what is drawn, so drawing it only to look is not worth the time."""
        return []

    def prepare_data(self) -> None:
        """Draw the pictures, unless they are in the cache."""
        cached(self.settings, self.cache)

    def folder(self, split: Literal["train", "val", "test"]) -> Path | None:
        """Where a split's shards are, drawn by now."""
        return cached(self.settings, self.cache) / split
