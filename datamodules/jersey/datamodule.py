"""`Jersey`: the embedded data set, drawn on first use and then read like any other shards."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from datamodules.base import ShardsDataModule
from datamodules.jersey.drawing import CELL
from datamodules.jersey.labels import GRID_PINPOINTS, SIDE
from datamodules.jersey.questions import QUESTIONS
from datamodules.jersey.writing import JerseySettings, cached, is_wide
from datamodules.sizes import ExpectedSamples, expected_sizes
from lit_avg.data import SampleSizes, Split
from lit_avg.utils.arguments import check_counts, check_seed
from lit_avg.utils.cache_folder import default_cache
from lit_avg.utils.errors import UserError

Images = Literal["all", "wide", "tall"]
"""Which of Jersey's images, half of them wider than high, half of them higher than wide."""


class Jersey(ShardsDataModule):
    """Images of one player in a crowd with five independent questions on each.

    Args:
        batch_size: images a step.
        grid_pinpoints: (height, width) of the planes an image may be fitted into, None for a single view.
        images_train: images to learn from.
        images_val: images of the validation split.
        images_test: images of the test split.
        image_seed: seed of the images; another one gives another data set.
        cache_dir: where data sets are kept; $LIT_AVG_CACHE or ~/.cache/lit_avg if not given.
        learnt_kinds: question kinds of the training and validation split; all if not given. A test asks all.
        learnt_images: images of these splits: all, or those that are `wide` or `tall`.
        tested_images: the same for a test.
        **kwargs: of `ShardsDataModule`.

    Raises:
        UserError: there is no such kind of questions.
    """

    def __init__(
        self,
        *,
        batch_size: int = 24,
        grid_pinpoints: Sequence[Sequence[int]] | None = GRID_PINPOINTS,
        images_train: int = 6000,
        images_val: int = 500,
        images_test: int = 1000,
        image_seed: int = 0,
        cache_dir: str | None = None,
        learnt_kinds: Sequence[str] | None = None,
        learnt_images: Images = "all",
        tested_images: Images = "all",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            tokenizer="jersey",
            batch_size=batch_size,
            tile_size=SIDE * CELL,
            grid_pinpoints=None if grid_pinpoints is None else [list(pinpoint) for pinpoint in grid_pinpoints],
            system_prompt=None,
            independent_turns=True,
            shard_cache=None,  # what is drawn here is not fetched
            cache_gb=1.0,
            **kwargs,
        )
        counts = {"images_train": images_train, "images_val": images_val, "images_test": images_test}
        check_counts(counts)
        check_seed("image_seed", image_seed)
        self.settings = JerseySettings(images_train, images_val, images_test, image_seed)
        self.cache = Path(cache_dir) if cache_dir else default_cache()
        if unknown := set(learnt_kinds or ()) - set(QUESTIONS):
            raise UserError(f"learnt_kinds: there are {', '.join(QUESTIONS)}, but no {', '.join(sorted(unknown))}")
        if learnt_kinds is not None and not learnt_kinds:
            raise UserError(f"learnt_kinds: [] leaves no question to learn from; there are {', '.join(QUESTIONS)}")
        self.learnt_kinds = None if learnt_kinds is None else tuple(learnt_kinds)
        self.learnt_images: Images = learnt_images
        self.tested_images: Images = tested_images

    @property
    def question_kinds(self) -> tuple[str, ...]:
        """All that are asked of an image."""
        return tuple(QUESTIONS)

    def identities(self) -> dict[str, str]:
        """Settings and the generator's version, which decide what is drawn: drawing it only to look would take long."""
        return {"Jersey": self.settings.digest}

    @property
    def longest_text(self) -> int:
        """Questions and answers of a few words."""
        return min(64, self.max_length)

    def sample_sizes(self, split: Split, quickly: bool = False) -> SampleSizes:
        """As in `ShardsData`, by the settings alone: nothing is drawn for it."""
        counts = {"train": self.settings.train, "val": self.settings.val, "test": self.settings.test}
        expected = ExpectedSamples(counts[split], self.longest_text, answers=0.25, longest=self.longest_text)
        sizes = expected_sizes(expected, self.tiling, 1.0, self.max_length)
        asked = len(self.kinds(split) or self.question_kinds)
        return replace(sizes, questions=float(asked), told_by="by Jersey's settings")

    def prepare_data(self) -> None:
        """Draw the images, unless they are in the cache."""
        cached(self.settings, self.cache)

    def folder(self, split: Split) -> Path | None:
        """Where a split's shards are, drawn by now."""
        return cached(self.settings, self.cache) / split

    def kinds(self, split: Split) -> tuple[str, ...] | None:
        """What `learnt_kinds` says; all in a test."""
        return None if split == "test" else self.learnt_kinds

    def keeps(self, split: Split) -> Callable[[str], bool] | None:
        """Wide or tall images alone, where they are asked for."""
        wanted = self.tested_images if split == "test" else self.learnt_images
        if wanted == "all":
            return None
        return lambda key: is_wide(self.settings, split, int(key)) == (wanted == "wide")
