"""`JerseySymbols`: Jersey's questions on images that are spelled in words, to pretrain a toy LLM on."""

from collections.abc import Sequence
from functools import cached_property
from typing import cast

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerFast

from datamodules.encoding.collate import Collate, EncodedSample, Question
from datamodules.encoding.conversation import ConversationRenderer
from datamodules.encoding.tiling import TiledImage
from datamodules.jersey.drawing import CELL, Scene, random_scene
from datamodules.jersey.labels import SIDE, tile_grid
from datamodules.jersey.make_tokenizer import FOLDER
from datamodules.jersey.questions import QUESTIONS, answers
from datamodules.jersey.replay import ReplayedLoader
from datamodules.jersey.spelling import Speller
from datamodules.shards.sample import Turn
from lit_avg.batch import SymbolBatch
from lit_avg.utils.arguments import check_counts, check_seed

TRAIN_STREAM, VAL_STREAM = 20, 21
"""Numbers of the random streams, apart from those of Jersey's splits and of the dense images."""

SpelledScene = tuple[Scene, Tensor, Tensor]


class JerseySymbols(L.LightningDataModule):
    """Scenes of one player, spelled in words, with the five questions on each.

    Args:
        batch_size: scenes a step.
        scenes_train: scenes to learn from.
        scenes_val: held-out scenes.
        image_seed: seed of the scenes.
    """

    def __init__(
        self,
        batch_size: int = 24,
        scenes_train: int = 4000,
        scenes_val: int = 200,
        image_seed: int = 0,
    ) -> None:
        super().__init__()
        check_counts({"batch_size": batch_size, "scenes_train": scenes_train, "scenes_val": scenes_val})
        check_seed("image_seed", image_seed)
        self.batch_size = batch_size
        self.side_by_side = Collate(SIDE * CELL)
        self.scenes = {TRAIN_STREAM: scenes_train, VAL_STREAM: scenes_val}
        self.image_seed = image_seed

    @cached_property
    def tokenizer_object(self) -> PreTrainedTokenizerFast:
        """The shipped tokenizer."""
        return cast(PreTrainedTokenizerFast, PreTrainedTokenizerFast.from_pretrained(FOLDER))

    def setup(self, stage: str) -> None:
        """Imagine the scenes and spell them."""
        self.renderer = ConversationRenderer(self.tokenizer_object, system_prompt=None)
        speller = Speller(self.tokenizer_object)
        self.train, self.val = (self._spelled(stream, speller) for stream in (TRAIN_STREAM, VAL_STREAM))

    def train_dataloader(self) -> DataLoader[SymbolBatch] | ReplayedLoader[SymbolBatch]:
        """Scenes in an order that the run's seed decides; on several processes Lightning deals it out."""
        loader = self._loader(self.train, shuffle=True)
        return loader if self.trainer and self.trainer.world_size > 1 else ReplayedLoader(loader)

    def val_dataloader(self) -> DataLoader[SymbolBatch]:
        """The held-out scenes."""
        return self._loader(self.val, shuffle=False)

    def collate(self, scenes: Sequence[SpelledScene]) -> SymbolBatch:
        """Scenes behind one another."""
        return SymbolBatch(
            text=self.side_by_side([self.encode(scene, key) for key, (scene, _, _) in enumerate(scenes)]),
            words=torch.cat([words for _, words, _ in scenes]),
            weights=torch.cat([weights for _, _, weights in scenes]),
            newline=self.tokenizer_object.encode("\n", add_special_tokens=False)[0],
        )

    def encode(self, scene: Scene, key: int) -> EncodedSample:
        """The five questions on a scene, whose image has a size and tiles but no pixels."""
        questions = tuple(
            Question(f"{key}/{kind}", kind, answer, self.renderer(_turns(kind, answer), has_image=True))
            for kind, answer in answers(scene).items()
        )
        rows, columns = scene.crowd.shape
        no_pixels = np.zeros((0, SIDE * CELL, SIDE * CELL, 3), np.uint8)
        return EncodedSample(
            questions, TiledImage(no_pixels, tile_grid((rows, columns)), (rows * CELL, columns * CELL))
        )

    def _spelled(self, stream: int, speller: Speller) -> list[SpelledScene]:
        streams = ((self.image_seed, stream, number) for number in range(self.scenes[stream]))
        scenes = [random_scene(np.random.default_rng(numbers)) for numbers in streams]
        return [(scene, *speller.spell(scene)) for scene in scenes]

    def _loader(self, scenes: list[SpelledScene], shuffle: bool) -> DataLoader[SymbolBatch]:
        return DataLoader(
            cast(Dataset[SymbolBatch], scenes),
            self.batch_size,
            shuffle=shuffle,
            collate_fn=self.collate,
        )


def _turns(kind: str, answer: str) -> tuple[Turn, ...]:
    return Turn("human", QUESTIONS[kind]), Turn("gpt", answer)
