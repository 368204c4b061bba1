from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from datamodules.base import ShardsDataModule
from datamodules.llava_shards import LLaVAShards
from datamodules.shards.sample import BadSampleError, Sample, Turn
from lit_avg.batch import IGNORED_LABEL, IMAGE_PLACEHOLDER, PADDING, PREFIX, Batch
from lit_avg.llava_next.llm_input import separate_questions
from lit_avg.model import AvgLlava
from tests.drawn import drawn_shards

MakeBatch = Callable[..., Batch]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn_shards(tmp_path_factory.mktemp("drawn"), samples=6, rounds=3)


@pytest.fixture
def batch_of(shards: Path) -> MakeBatch:
    """All six samples (the fifth without an image) as one batch."""

    def make(independent_turns: bool, pack_questions: bool = True) -> Batch:
        module = LLaVAShards(
            train=str(shards),
            test=str(shards),
            tokenizer="jersey",
            batch_size=6,
            tile_size=32,
            grid_pinpoints=[[32, 64], [64, 32]],
            system_prompt=None,
            independent_turns=independent_turns,
            pack_questions=pack_questions,
        )
        return module.on_after_batch_transfer(next(iter(module.test_dataloader())), 0)

    return make


def own_tokens(batch: Batch, question: int) -> tuple[list[int], list[int], list[bool]]:
    """Tokens, labels and instruction of one question with its prefix."""
    row = int(batch.row_of_question[question])
    seen = (batch.question[row] == PREFIX) | (batch.question[row] == question)
    return batch.input_ids[row, seen].tolist(), batch.labels[row, seen].tolist(), batch.instruction[row, seen].tolist()


def test_packed_and_separate_rows_hold_the_same_questions(batch_of: MakeBatch) -> None:
    packed, separate = batch_of(True), batch_of(True, pack_questions=False)
    assert (len(packed.input_ids), len(separate.input_ids)) == (6, 18)
    for name in ("keys", "kinds", "answers", "tile_grids"):
        assert getattr(packed, name) == getattr(separate, name)
    assert torch.equal(packed.pixel_values, separate.pixel_values)
    for question in range(18):
        assert own_tokens(packed, question) == own_tokens(separate, question)


def test_questions_on_one_image_are_known_by_it(batch_of: MakeBatch) -> None:
    batch = batch_of(True)
    names = [batch.image_names[3 * sample : 3 * sample + 3] for sample in range(6)]
    assert names[4] == batch.keys[12:15]  # no image: each by itself
    pictured = [*names[:4], names[5]]
    assert all(len(set(own)) == 1 and len(own[0]) == 16 for own in pictured)
    assert len({own[0] for own in pictured}) == 5
    assert batch_of(True, pack_questions=False).image_names == batch.image_names
    assert batch_of(False).image_names == [own[0] if own in pictured else f"{n:09d}" for n, own in enumerate(names)]
    without = replace(batch, image_hashes=[])  # of data that does not tell
    assert without.image_names[3:6] == [batch.keys[3]] * 3
    assert without.image_names[12:15] == batch.keys[12:15]


def test_separating_packed_questions_gives_the_rows_that_were_never_packed(batch_of: MakeBatch) -> None:
    separated, separate = separate_questions(batch_of(True)), batch_of(True, pack_questions=False)
    kept = separate.question != PADDING
    assert torch.equal(separated.question, separate.question)
    assert torch.equal(separated.input_ids[kept], separate.input_ids[kept])
    assert torch.equal(separated.image_of_row, separate.image_of_row)


def test_packing_does_not_change_the_losses(batch_of: MakeBatch, model: AvgLlava) -> None:
    packed, separate = batch_of(True), batch_of(True, pack_questions=False)
    for batch in (packed, separate):
        batch.input_ids = batch.input_ids.where(batch.input_ids < 0, batch.input_ids % 50)  # a vocabulary of 50
        batch.labels = batch.labels.where(batch.labels < 0, batch.labels % 50)
    one, other = (model.answer_tokens_at(batch, model.encode_levels(batch), 4).log_prob for batch in (packed, separate))
    assert torch.allclose(one, other, atol=1e-5)


def test_a_dialogue_is_one_question_with_all_its_answers(batch_of: MakeBatch) -> None:
    batch = batch_of(False)
    assert batch.keys == [f"{number:09d}" for number in range(6)]
    assert batch.answers[0] == "answer 2"
    tokens, labels, _ = own_tokens(batch, 0)
    end = 2
    assert [token for token, label in zip(tokens, labels, strict=True) if label == end] == [end] * 3  # three rounds
    assert batch.kinds == ["all"] * 6


def test_a_text_only_row_has_neither_image_nor_prefix(batch_of: MakeBatch) -> None:
    batch = batch_of(True)
    assert batch.image_of_row.tolist() == [0, 1, 2, 3, -1, 4]
    assert not ((batch.question[4] == PREFIX) | (batch.input_ids[4] == IMAGE_PLACEHOLDER)).any()
    assert batch.keys[12:15] == ["000000004/0", "000000004/1", "000000004/2"]


def test_padding_teaches_nothing(batch_of: MakeBatch) -> None:
    batch = batch_of(True)
    padding = batch.question == PADDING
    assert padding.any()
    assert (batch.labels[padding] == IGNORED_LABEL).all()
    assert not batch.instruction[padding].any()


def test_a_base_data_module_leaves_the_folders_to_its_subclasses() -> None:
    module = ShardsDataModule("jersey", 2, 32, None)
    with pytest.raises(NotImplementedError):
        module.train_dataloader()


def test_a_sample_whose_words_cannot_be_written_is_named() -> None:
    data = LLaVAShards("nowhere", tokenizer="jersey", batch_size=1, tile_size=32, grid_pinpoints=None)
    assert (
        len(data.encoder(Sample("000000007", (Turn("human", "Why </s>?"), Turn("gpt", "So.")), (), None)).questions)
        == 1
    )
    hidden = (Turn("human", "Why </s>?"), Turn("gpt", "".join(map(chr, range(0x10FF00, 0x10FFFE)))))
    with pytest.raises(BadSampleError, match="sample 000000007: it has the private character"):
        data.encoder(Sample("000000007", hidden, (), None))
