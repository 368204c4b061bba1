import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from datamodules.jersey import JerseyPatches, JerseySymbols
from datamodules.jersey.drawing import Player, Scene
from datamodules.jersey.make_tokenizer import FOLDER
from datamodules.jersey.questions import QUESTIONS
from datamodules.jersey.spelling import Speller
from lit_avg.batch import IMAGE_PLACEHOLDER


def said(words: Tensor, weights: Tensor, tokenizer: PreTrainedTokenizerFast) -> set[str]:
    return {tokenizer.decode([word]) for word, weight in zip(words.tolist(), weights.tolist(), strict=True) if weight}


def test_a_patch_is_spelled_by_what_it_shows() -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    player = Player(row=2, column=9, size=1, number=47, colour=0)
    scene = Scene(np.ones((8, 16), np.int64), np.full((8, 16), 0.9, np.float32), (player,), 1, (0, 0))
    words, weights = Speller(tokenizer).spell(scene)
    assert words.shape == weights.shape == (3, 64, 8)
    tens, units = 2 * 8 + 1, 2 * 8 + 2  # patches of the right tile
    assert said(words[2, tens], weights[2, tens], tokenizer) == {" jersey", "red", " number", "4"}
    assert said(words[2, units], weights[2, units], tokenizer) == {" jersey", "red", " number", "h"}
    assert said(words[1, 0], weights[1, 0], tokenizer) == {" crowd", " yellow", " brightest"}
    assert said(words[0, 63], weights[0, 63], tokenizer) == {" crowd", " yellow", " brightest", " bottom", " right"}


def test_symbols_come_with_the_questions_that_stages_ask_and_no_pixels() -> None:
    data = JerseySymbols(batch_size=4, scenes_train=8, scenes_val=4)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch.text.kinds == list(QUESTIONS) * 4
    assert (batch.text.input_ids == IMAGE_PLACEHOLDER).sum() == 4
    assert batch.text.pixel_values.shape == (0, 64, 64, 3)
    assert batch.words.shape == (4 * 3, 64, 8)


def test_patches_come_with_a_label_for_each_and_one_global_view_an_image() -> None:
    data = JerseyPatches(batch_size=4, images_train=8, images_val=4)
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    assert batch.pixel_values.shape == (12, 3, 64, 64)
    assert batch.tens.shape == batch.brightness.shape == (12, 64)
    assert torch.equal(batch.global_view, torch.tensor([1, 0, 0] * 4))
    white = batch.pixel_values.amin(dim=1).unflatten(1, (8, 8)).unflatten(3, (8, 8)) > 1.3  # (12, 8, 8, 8, 8)
    shows_white = white.sum(dim=(2, 4)).flatten(1) > 4
    tiles = batch.global_view == 0
    digit = (batch.tens < 10) | (batch.units < 10)
    assert (shows_white & ~digit)[tiles].sum() <= 0.02 * digit[tiles].sum()  # what is white is labelled as a digit
