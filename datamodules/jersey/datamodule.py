"""`Jersey`: the embedded data set, drawn on first use and then read like any other shards."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from datamodules.base import ShardsDataModule
from datamodules.jersey.drawing import CELL
from datamodules.jersey.labels import GRID_PINPOINTS, SIDE
from datamodules.jersey.questions import QUESTIONS
from datamodules.jersey.writing import JerseySettings, cached, is_wide
from datamodules.splits import Split
from lit_avg.utils.arguments import check_counts, check_seed
from lit_avg.utils.cache_folder import default_cache
from lit_avg.utils.errors import UserError

Pictures = Literal["all", "wide", "tall"]
"""Which of Jersey's pictures, half of them wider than high, half of them higher than wide."""


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
        learnt_kinds: question kinds of the training and validation split; all if not given. A test asks all.
        learnt_pictures: pictures of these splits: all, or those that are `wide` or `tall`.
        tested_pictures: the same for a test.

    Raises:
        UserError: there is no such kind of questions.
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
        learnt_kinds: Sequence[str] | None = None,
        learnt_pictures: Pictures = "all",
        tested_pictures: Pictures = "all",
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
        counts = {"pictures_train": pictures_train, "pictures_val": pictures_val, "pictures_test": pictures_test}
        check_counts(counts)
        check_seed("picture_seed", picture_seed)
        self.settings = JerseySettings(pictures_train, pictures_val, pictures_test, picture_seed)
        self.cache = Path(cache_dir) if cache_dir else default_cache()
        if unknown := set(learnt_kinds or ()) - set(QUESTIONS):
            raise UserError(f"learnt_kinds: there are {', '.join(QUESTIONS)}, but no {', '.join(sorted(unknown))}")
        if learnt_kinds is not None and not learnt_kinds:
            raise UserError(f"learnt_kinds: [] leaves no question to learn from; there are {', '.join(QUESTIONS)}")
        self.learnt_kinds = None if learnt_kinds is None else tuple(learnt_kinds)
        self.learnt_pictures: Pictures = learnt_pictures
        self.tested_pictures: Pictures = tested_pictures

    def identities(self) -> dict[str, str]:
        """Settings and the generator's version, which decide what is drawn: drawing it only to look would take long."""
        return {"Jersey": self.settings.digest}

    @property
    def longest_text(self) -> int:
        """Questions and answers of a few words, which no `max_length` cuts."""
        return 64

    def prepare_data(self) -> None:
        """Draw the pictures, unless they are in the cache."""
        cached(self.settings, self.cache)

    def folder(self, split: Split) -> Path | None:
        """Where a split's shards are, drawn by now."""
        return cached(self.settings, self.cache) / split

    def kinds(self, split: Split) -> tuple[str, ...] | None:
        """What `learnt_kinds` says; all in a test."""
        return None if split == "test" else self.learnt_kinds

    def keeps(self, split: Split) -> Callable[[str], bool] | None:
        """Wide or tall pictures alone, where they are asked for."""
        wanted = self.tested_pictures if split == "test" else self.learnt_pictures
        if wanted == "all":
            return None
        return lambda key: is_wide(self.settings, split, int(key)) == (wanted == "wide")
