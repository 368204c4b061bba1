"""An LLM is not given more than it has positions for without a word."""

import logging

import pytest
import torch

from datamodules.jersey import Jersey
from datamodules.jersey.questions import QUESTIONS
from datamodules.llava_shards import LLaVAShards
from datamodules.shards.sample import Turn
from lit_avg.utils.errors import UserError
from lit_avg.visual_tokens.anyres import VisualLayout
from lit_avg.visual_tokens.context_length import ContextLength, check_context_length
from lit_avg.visual_tokens.granularity import Granularities
from tests.tiny import make_batch, tiny_backbone, tiny_model

PLANES = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
LAYOUT = VisualLayout(Granularities((36, 72, 144, 288, 576)))


def data(max_length: int) -> LLaVAShards:
    return LLaVAShards(
        "nowhere", tokenizer="jersey", batch_size=1, tile_size=336, grid_pinpoints=PLANES, max_length=max_length
    )


def test_the_longest_sequence_is_text_and_the_fullest_plane() -> None:
    # 576 of the global view, 4 tiles of 24 x 24, and 48 newlines; the image counts as one token of the text
    assert data(4096).longest_sequence(LAYOUT) == 4096 - 1 + 576 + 4 * 576 + 48 == 4095 + 2928


def test_the_recipe_of_vicuna_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_context_length(data(4096).longest_sequence(LAYOUT), LAYOUT, 4096)
    assert "may take 7023 tokens, but the LLM was made for 4096" in caplog.text
    assert "lower the data's max_length by 2927" in caplog.text


def test_what_fits_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_context_length(data(4096 - 2927).longest_sequence(LAYOUT), LAYOUT, 4096)
        check_context_length(data(4096).longest_sequence(LAYOUT), LAYOUT, None)
    assert caplog.text == ""


def test_an_llm_that_a_tile_fills_is_refused() -> None:
    with pytest.raises(UserError, match=r"the LLM has 576 positions .* which a single tile of 576 tokens fills"):
        check_context_length(data(100).longest_sequence(LAYOUT), LAYOUT, 576)


def test_no_text_of_jersey_is_longer_than_it_says() -> None:
    jersey = Jersey()
    longest = max(
        len(jersey.encoder.renderer((Turn("human", asked), Turn("gpt", "bottom right")), True).input_ids)
        for asked in QUESTIONS.values()
    )
    assert longest <= jersey.longest_text < 100


def test_a_sequence_beyond_the_positions_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model()
    batch = make_batch([([(4, 2)], 0)], [((1, 2), (32, 64))])
    levels = model.encode_levels(batch)
    with caplog.at_level(logging.WARNING), torch.no_grad():
        model.answer_tokens_at(batch, levels, 4)
        assert caplog.text == ""
        model.context_length = ContextLength(16)
        for _ in range(2):
            model.answer_tokens_at(batch, levels, 4)
    assert caplog.text.count("goes beyond the 16 positions") == 1


def test_the_positions_are_those_of_the_llms_config() -> None:
    backbone = tiny_backbone()
    assert backbone.positions == backbone.hf.config.text_config.max_position_embeddings
