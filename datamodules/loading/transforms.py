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
from collections.abc import Generator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from PIL import Image

from datamodules.encoding.collate import DecodedSample
from datamodules.loading.pipeline import SampleStage
from datamodules.shards.sample import Sample, Turn, problem_of
from lit_avg.utils.errors import UserError
from lit_avg.utils.hashing import hash_of, hash_of_json, number_of

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
    return f"{name} {json.dumps(_plain(transform.__getstate__()), sort_keys=True)}"


def _plain(value: object) -> object:
    """What JSON can say of what a transform holds, the same in every process: pickles of sets and tensors are not."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case dict():
            entries = [[_plain(name), _plain(held)] for name, held in cast(dict[object, object], value).items()]
            if all(isinstance(name, str) for name, _ in entries):
                return {cast(str, name): held for name, held in entries}
            return sorted(entries, key=json.dumps)
        case list() | tuple():
            return [_plain(held) for held in cast(Sequence[object], value)]
        case set() | frozenset():
            return sorted((_plain(held) for held in cast(Set[object], value)), key=json.dumps)
        case torch.Tensor():
            return hash_of_json([str(value.dtype), value.tolist()], 16)
        case _:
            return hash_of(pickle.dumps(value), 16)


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
    sample, image = cast(object, made.sample), cast(object, made.image)
    if not isinstance(sample, Sample):
        return f"it gave a sample that is a {type(sample).__name__}, but must be a Sample"
    if sample.key != given.sample.key:
        return f"it gave sample {sample.key}; which samples come when is not for a transform to say"
    if image is not None and not isinstance(image, Image.Image):
        return f"it gave an image that is a {type(image).__name__}, but must be an RGB image of Pillow's"
    if image is not None and (image.mode != "RGB" or 0 in image.size):
        return f"it gave an image of mode {image.mode} and {image.width} x {image.height} pixels, but must give RGB"
    return _problem_of_words(sample, image is not None)


def _problem_of_words(sample: Sample, has_image: bool) -> str | None:
    turns = cast(Sequence[object], sample.turns)
    if not all(isinstance(turn, Turn) and isinstance(cast(object, turn.text), str) for turn in turns):
        return "it gave turns that are not all a Turn with a text"
    if problem := problem_of(sample.turns, has_image):
        return f"it gave a conversation with {problem}"
    if sample.kinds and len(sample.kinds) != len(sample.rounds):
        return f"it gave {len(sample.kinds)} kinds for {len(sample.rounds)} rounds"
    return None
