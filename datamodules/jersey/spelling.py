"""An image spelled in words: every patch is a handful of them, for example " crowd" " cyan" " brightest".

The toy LLM sees the sums of their embeddings. What a pooled token must not mix up has words of its own: a
jersey's colour is spelled without the space before it, a units digit as a letter. The global view's words say in which
quarter of the image a patch lies and name no digits, as a real encoder can tell the one and hardly read the other; a
tile does not know where in the image it is.
"""

import string
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from datamodules.jersey.drawing import COLOURS, Scene
from datamodules.jersey.labels import MEAN_BRIGHTNESS, SIDE, Cells, cells_of, patches_of
from datamodules.jersey.questions import HORIZONTAL, VERTICAL
from lit_avg.batch import NO_DIGIT

_BRIGHTNESS_WEIGHT = 3.0
_DIGIT_WEIGHT = 3.0  # at 1 the LLM needs many more steps before it finds the one patch with the digit
_JERSEY_COLOUR_WEIGHT = 1.5

Spelled = tuple[NDArray[np.int64], NDArray[np.float64]]
"""A word of every patch and what it counts there, (views, SIDE, SIDE) each or broadcast to it."""


class Speller:
    """Spells the views of a scene in the words of a tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        def ids(words: Sequence[str]) -> NDArray[np.int64]:
            return np.array([tokenizer.encode(word, add_special_tokens=False)[0] for word in words])

        self.crowd_colours = ids([f" {colour}" for colour in COLOURS])
        self.jersey_colours = ids(list(COLOURS))
        self.tens, self.units = ids(string.digits), ids(string.ascii_lowercase[:10])
        self.vertical, self.horizontal = (
            ids([f" {side}" for side in VERTICAL]),
            ids([f" {side}" for side in HORIZONTAL]),
        )
        self.crowd, self.jersey, self.bright, self.number = ids([" crowd", " jersey", " brightest", " number"])

    def spell(self, scene: Scene) -> tuple[Tensor, Tensor]:
        """Words and their weights of every patch, (views, P, W) each, the global view first."""
        patches = patches_of(cells_of(scene))
        spelled = [*self._what(patches), *self._digits(patches), *self._quarter(patches)]
        words, weights = (np.stack(np.broadcast_arrays(*column), axis=-1) for column in zip(*spelled, strict=True))
        return torch.from_numpy(words).flatten(1, 2), torch.from_numpy(weights.astype(np.float32)).flatten(1, 2)

    def _what(self, patches: Cells) -> list[Spelled]:
        """Jersey or crowd, its colour, and how bright the crowd is; nothing in the padding and on boards."""
        there, on_jersey = (patches.colour >= 0).astype(np.float64), patches.jersey == 1
        colour = patches.colour.clip(min=0)
        brighter = np.nan_to_num(patches.brightness - MEAN_BRIGHTNESS).astype(np.float64)
        names = np.where(on_jersey, self.jersey_colours[colour], self.crowd_colours[colour])
        return [
            (np.where(on_jersey, self.jersey, self.crowd), there),
            (names, np.where(on_jersey, _JERSEY_COLOUR_WEIGHT, there)),
            (np.full_like(colour, self.bright), _BRIGHTNESS_WEIGHT * brighter),
        ]

    def _digits(self, patches: Cells) -> list[Spelled]:
        """That there is a digit, tens and units; on tiles alone."""
        on_tile = np.arange(len(patches.tens))[:, None, None] > 0
        has_tens, has_units = (patches.tens != NO_DIGIT) & on_tile, (patches.units != NO_DIGIT) & on_tile
        return [
            (np.full_like(patches.tens, self.number), _DIGIT_WEIGHT * (has_tens | has_units)),
            (self.tens[patches.tens % NO_DIGIT], _DIGIT_WEIGHT * has_tens),
            (self.units[patches.units % NO_DIGIT], _DIGIT_WEIGHT * has_units),
        ]

    def _quarter(self, patches: Cells) -> list[Spelled]:
        """Top or bottom, left or right, on the global view alone."""
        on_global = (np.arange(len(patches.tens)) == 0)[:, None, None] * np.ones((SIDE, SIDE))
        half = np.arange(SIDE) // (SIDE // 2)
        return [
            (np.broadcast_to(self.vertical[half][:, None], on_global.shape), on_global),
            (np.broadcast_to(self.horizontal[half], on_global.shape), on_global),
        ]
