"""A model is asked as it was taught: the short way in renders a question as training does, up to the answer."""

import pytest
import torch
from PIL import Image

from datamodules.llava_shards import LLaVAShards
from datamodules.shards.sample import Turn
from lit_avg.llava_next.prompts import PromptEncoder

DATA = LLaVAShards("nowhere", tokenizer="jersey", batch_size=1, tile_size=16, grid_pinpoints=[[16, 16], [32, 32]])
QUESTION = "which number is on the player ?"


@pytest.mark.parametrize("answer", ["42", "top left", "It was drawn."])
@pytest.mark.parametrize("pictured", [True, False])
def test_a_prompt_is_what_training_shows_before_the_answer(answer: str, pictured: bool) -> None:
    encode = PromptEncoder(DATA.processor(patch_size=4, feature_selection="default"))
    asked = encode([Image.new("RGB", (20, 30)) if pictured else None], [QUESTION])
    taught = DATA.encoder.renderer((Turn("human", QUESTION), Turn("gpt", answer)), has_image=pictured)
    first_answer_token = int(taught.answer.nonzero()[0])
    assert torch.equal(asked.input_ids[0], taught.input_ids[:first_answer_token])
    assert torch.equal(asked.instruction[0], taught.instruction[:first_answer_token])
