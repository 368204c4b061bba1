"""`JerseyPatches`: images full of players with the contents of every patch, to pretrain a toy encoder on.

One player an image teaches a small encoder its colours but never its digits; many players of mixed size do.
"""

from collections.abc import Sequence
from typing import cast

import lightning as L
import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.encoding.tiling import CLIP_MEAN, CLIP_STD, Normalisation, Tiling
from datamodules.jersey.drawing import (
    CELL,
    PLAYER_SIZE_SHARES,
    PLAYER_SIZES,
    SHAPE_SHARES,
    SHAPES,
    Player,
    Scene,
    draw,
    random_board,
    random_crowd,
    random_player,
    without_overlap,
)
from datamodules.jersey.labels import GRID_PINPOINTS, SIDE, Cells, cells_of, patches_of
from datamodules.jersey.replay import ReplayedLoader
from lit_avg.batch import PatchBatch
from lit_avg.utils.arguments import check_counts, check_seed

TRAIN_STREAM, VAL_STREAM = 10, 11
"""Numbers of the random streams, apart from those of Jersey's splits."""

_ATTEMPTS = 40  # at placing a player or a board
_WORN = 0.6  # share of the numbers that are on jerseys

DenseImage = tuple[Image.Image, Cells]
"""An image, and what the patches of its views show."""


def dense_scene(generator: Generator) -> Scene:
    """A crowd with as many players and boards as find room in a few attempts."""
    shape = SHAPES[generator.choice(len(SHAPES), p=SHAPE_SHARES)]
    players: list[Player] = []
    for size in generator.choice(PLAYER_SIZES, _ATTEMPTS, p=PLAYER_SIZE_SHARES).tolist():
        board = random_board(shape, size, generator)
        worn = generator.random() < _WORN
        players.append(random_player(board.row, board.column, size, generator) if worn else board)
    return random_crowd(shape, without_overlap(players, shape), generator)


class JerseyPatches(L.LightningDataModule):
    """Labelled views of dense images, drawn in memory when a run begins.

    Args:
        batch_size: images a step; each has three views.
        images_train: images to learn from.
        images_val: held-out images.
        image_seed: seed of the images.
        image_mean: what is subtracted from each channel, pixels being 0 to 1.
        image_std: what each channel is divided by then.
    """

    def __init__(
        self,
        batch_size: int = 24,
        images_train: int = 3000,
        images_val: int = 200,
        image_seed: int = 0,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
    ) -> None:
        super().__init__()
        check_counts({"batch_size": batch_size, "images_train": images_train, "images_val": images_val})
        check_seed("image_seed", image_seed)
        self.batch_size = batch_size
        self.images = {TRAIN_STREAM: images_train, VAL_STREAM: images_val}
        self.image_seed = image_seed
        self.tiling = Tiling(SIDE * CELL, GRID_PINPOINTS)
        self.normalise = Normalisation(image_mean, image_std)

    def setup(self, stage: str) -> None:
        """Draw the images."""
        self.train, self.val = (self._draw(stream) for stream in (TRAIN_STREAM, VAL_STREAM))

    def train_dataloader(self) -> DataLoader[PatchBatch] | ReplayedLoader[PatchBatch]:
        """Images in an order that the run's seed decides; on several processes Lightning deals it out."""
        loader = self._loader(self.train, shuffle=True)
        return loader if self.trainer and self.trainer.world_size > 1 else ReplayedLoader(loader)

    def val_dataloader(self) -> DataLoader[PatchBatch]:
        """The held-out images."""
        return self._loader(self.val, shuffle=False)

    def collate(self, images: Sequence[DenseImage]) -> PatchBatch:
        """Images' views, one behind the other."""
        shades = [torch.from_numpy(self.tiling(image).shades) for image, _ in images]
        cells = [cells for _, cells in images]

        def flat(arrays: list[NDArray[np.generic]]) -> Tensor:
            return torch.from_numpy(np.concatenate(arrays)).flatten(1)

        return PatchBatch(
            pixel_values=self.normalise(torch.cat(shades)),
            tens=flat([each.tens for each in cells]),
            units=flat([each.units for each in cells]),
            jersey=flat([each.jersey for each in cells]),
            colour=flat([each.colour for each in cells]),
            brightness=flat([each.brightness for each in cells]),
            global_view=torch.cat([torch.arange(len(each.tens)) == 0 for each in cells]).long(),
        )

    def _draw(self, stream: int) -> list[DenseImage]:
        return [self._image(stream, image) for image in range(self.images[stream])]

    def _image(self, stream: int, image: int) -> DenseImage:
        generator = np.random.default_rng((self.image_seed, stream, image))
        scene = dense_scene(generator)
        return Image.fromarray(draw(scene, generator)), patches_of(cells_of(scene))

    def _loader(self, images: list[DenseImage], shuffle: bool) -> DataLoader[PatchBatch]:
        return DataLoader(
            cast(Dataset[PatchBatch], images),
            self.batch_size,
            shuffle=shuffle,
            collate_fn=self.collate,
        )
