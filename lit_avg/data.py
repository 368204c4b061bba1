"""`ShardsData`: what stages, callbacks and verbs ask of a data module, beyond the loaders that Lightning asks for."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import lightning as L
import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import LlavaNextProcessor

from lit_avg.batch import Batch
from lit_avg.utils.errors import UserError
from lit_avg.visual_tokens.anyres import VisualLayout

Split = Literal["train", "val", "test"]

SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class SampleSizes:
    """How large the samples of a split are: what `lit-avg plan` counts with.

    Args:
        samples: how many an epoch has; None if nobody knows.
        text: tokens of text of some samples that are as all are, (n,).
        images: height and width of their images, 0 and 0 without one, (n, 2).
        tile_grids: rows and columns of tiles that these are cut into, 0 and 0 for the global view alone, (n, 2).
        answers: share of the text that is answers.
        longest: tokens of the longest text.
        questions: of a sample, which share its image; on average.
        told_by: where all this is from, in words.
    """

    samples: int | None
    text: NDArray[np.int64]
    images: NDArray[np.int64]
    tile_grids: NDArray[np.int64]
    answers: float
    longest: int
    questions: float
    told_by: str


class ShardsData(L.LightningDataModule, ABC):
    """A data module that can tell what its samples are and how they were encoded.

    Any LightningDataModule whose loaders give a `Batch` is trained and tested on. One that derives from this class is
    asked for more. It has to say how token ids become text; of the rest it overrides what it can say, since each member
    stands for what goes without it. `datamodules.base.ShardsDataModule` says it all.
    """

    @abstractmethod
    def decode(self, ids: Tensor) -> str:
        """Text of token ids (T,), without special tokens: for predictions and for people to look at."""

    def denormalise(self, pixel_values: Tensor) -> Tensor | None:
        """What the encoder sees, (..., 3, S, S) on the CPU, as shades of 0 to 1.

        None if it cannot say, so that no image is shown.
        """
        return None

    @property
    def end_token(self) -> int | None:
        """The token that ends every answer; None if it cannot say, so that nobody checks that the model stops there."""
        return None

    def longest_sequence(self, layout: VisualLayout) -> int | None:
        """Tokens of a question, its answer and its image at the finest granularity, at most.

        None if it cannot say, so that an LLM's positions are not checked before training.
        """
        return None

    def processor(self, patch_size: int, feature_selection: str) -> LlavaNextProcessor:
        """How transformers would prepare the same samples, for `lit-avg export`.

        Raises:
            UserError: it cannot say.
        """
        raise no_processor(self)

    @property
    def manifest_hash(self) -> str | None:
        """16 hex digits that name the data of all splits in `result.json`; None if it has no such name."""
        return None

    def identities(self) -> dict[str, str]:
        """Hashes of the data, by the file, URL or command that has it, or by the name of what draws it.

        Runs of a study are told apart by them. Empty if it cannot say, so that they are told apart by their configs
        alone.
        """
        return {}

    @property
    def question_kinds(self) -> Sequence[str] | None:
        """The kinds of a test's questions; None if it cannot say before it is run, so that a table may ask for any."""
        return None

    def sample_sizes(self, split: Split, quickly: bool = False) -> SampleSizes | None:
        """How large the samples of a split are, by what lies there or else by what is taken for granted.

        Quickly, of what lies there only the number of samples counts. None if it cannot say, or if there is no such
        split.
        """
        return None

    def data_digest(self, split: Split) -> str | None:
        """SHA-256 of which samples a split has; None if there is no such split, or if it cannot say."""
        return None

    @property
    def encoding_settings(self) -> dict[str, str]:
        """What makes tokens and pixels of a sample, by name: stored feedback depends on it.

        Raises:
            UserError: it cannot say.
        """
        raise no_samples(self)

    def sample_count(self, split: Split) -> int:
        """Samples of a split, for `lit-avg feedback`.

        Raises:
            UserError: it cannot say.
        """
        raise no_samples(self)

    def sequential_batches(self, split: Split, begin: int, end: int) -> Iterable[Batch]:
        """The samples from `begin` to before `end` as they lie, each sample once at most, for `lit-avg feedback`.

        Raises:
            UserError: it cannot say.
        """
        raise no_samples(self)


def no_processor(data: object) -> UserError:
    """What to tell of data on whose runs no model can be exported."""
    return UserError(f"{type(data).__name__} has no processor for the model; export a run on shards")


def no_samples(data: object) -> UserError:
    """What to tell of data whose feedback cannot be stored."""
    return UserError(f"{type(data).__name__} cannot say which samples it has; a feedback store needs data in shards")
