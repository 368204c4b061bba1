"""Transforms of one's own: what a training sample goes through between the decoding of its image and its tokens.

train_transforms:
  - class_path: mine.RandomHorizontalFlip
    init_args: {share: 0.5}

Whatever a transform draws from `random`, `numpy.random` or `torch` follows from (seed, epoch, the sample's key) and
from its place in the list, so a run that is resumed or has other workers or ranks draws the same; what others draw is
not touched. What it draws elsewhere, as from `numpy.random.default_rng()`, does not, and is a mistake.
"""

import json
import pickle
import random
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from datamodules.encoding.collate import DecodedSample
from datamodules.loading.pipeline import SampleStage
from datamodules.shards.sample import problem_of
from lit_avg.utils.errors import UserError
from lit_avg.utils.hashing import hash_of, number_of

TRANSFORMS = "train_transforms"
"""What they are called: the argument of data modules, and the entry in all that has to be equal."""


class SampleTransform(ABC):
    """Changes a training sample's image or words; validation, test and stored feedback see samples as they are.

    It can be pickled, for workers that are not forked, and keeps nothing between samples: they reach it in any order.
    """

    @abstractmethod
    def __call__(self, decoded: DecodedSample) -> DecodedSample:
        """The sample as it is to be trained on, such as `dataclasses.replace(decoded, image=...)`.

        Args:
            decoded: `sample` has key, turns and kinds, `image` is an RGB image of Pillow's, None without one.

        Raises:
            BadSampleError: it is no good, so that another stands in for it.
        """


@dataclass(frozen=True)
class TransformSample(SampleStage):
    """The stage that one transform is.

    Args:
        transform: it.
        place: which of the transforms it is.
        seed: of the training data.
        epoch: of the training.
    """

    transform: SampleTransform
    place: int
    seed: int
    epoch: int

    def make(self, given: DecodedSample) -> DecodedSample:
        """Transform one sample.

        Raises:
            UserError: what comes out is no sample, or another one.
        """
        name = f"{TRANSFORMS}: {class_path(self.transform)}, given sample {given.sample.key}"
        with seeded(self.seed, self.epoch, given.sample.key, self.place):
            try:
                made = self.transform(given)
            except Exception as error:
                error.add_note(name)
                raise
        if problem := _problem_of(made, given):
            raise UserError(f"{name}: {problem}")
        return made


def class_path(transform: SampleTransform) -> str:
    """As a YAML names its class."""
    return f"{type(transform).__module__}.{type(transform).__qualname__}"


def describe_transforms(transforms: Sequence[SampleTransform]) -> str:
    """Their classes and what they hold, equal for two lists of transforms that do the same.

    Raises:
        UserError: one cannot be pickled.
    """
    return ", ".join(map(_description, transforms)) or "none"


def _description(transform: SampleTransform) -> str:
    name = class_path(transform)
    try:
        pickle.dumps(transform)
    except Exception as error:  # pickle's own, and whatever an object's `__getstate__` raises
        raise UserError(f"{TRANSFORMS}: {name} cannot be pickled, as workers may need it to be: {error}") from error
    state = transform.__getstate__()
    return f"{name} {json.dumps(state, sort_keys=True, default=lambda value: hash_of(pickle.dumps(value), 16))}"


@contextmanager
def seeded(*parts: int | str) -> Generator[None]:
    """Random numbers that follow from some numbers and words alone; afterwards those go on that went before."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = number_of(json.dumps(parts))
    random.seed(seed)
    np.random.seed([seed >> 32, seed % 2**32])
    torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())  # `torch.manual_seed` is for GPUs as well
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def _problem_of(made: object, given: DecodedSample) -> str | None:
    """Why a transform's outcome cannot be encoded, None if it can."""
    if not isinstance(made, DecodedSample):
        return f"it gave {type(made).__name__}, but must give a DecodedSample"
    if made.sample.key != given.sample.key:
        return f"it gave sample {made.sample.key}; which samples come when is not for a transform to say"
    if made.image is not None and made.image.mode != "RGB":
        return f"it gave an image of mode {made.image.mode}, but must give RGB"
    if problem := problem_of(made.sample.turns, made.image is not None):
        return f"it gave a conversation with {problem}"
    return None
