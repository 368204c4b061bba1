from collections.abc import Callable

import torch

from lit_avg.batch import Batch
from lit_avg.feedback.lmm_feedback import (
    encode_levels_per_sample,
    lmm_feedback,
    lmm_feedback_per_sample,
    split_by_sample,
)
from lit_avg.model import AvgLlava
from tests.tiny import make_batch

TWO_PICTURES = [((1, 2), (32, 64)), ((2, 1), (60, 20))]


def test_feedback_does_not_depend_on_what_else_is_in_the_batch(model: AvgLlava) -> None:
    generator_seed = 0
    alone = make_batch([([(4, 2), (3, 1)], 0)], TWO_PICTURES[:1], generator_seed)
    rows = [([(4, 2), (3, 1)], 0), ([(25, 9)], 1), ([(3, 2)], -1)]
    company = make_batch(rows, TWO_PICTURES, generator_seed)
    company.pixel_values[:3] = alone.pixel_values  # the first image has a global view and two tiles
    expected = lmm_feedback_per_sample(model, alone, encode_levels_per_sample(model, alone))
    found = lmm_feedback_per_sample(model, company, encode_levels_per_sample(model, company))
    assert torch.equal(found.log_prob[:2], expected.log_prob)
    assert torch.equal(found.correct[:2], expected.correct)


def test_feedback_of_samples_alone_is_that_of_the_batch_but_for_rounding(model: AvgLlava, batch: Batch) -> None:
    together = lmm_feedback(model, batch, model.encode_levels(batch))
    alone = lmm_feedback_per_sample(model, batch, encode_levels_per_sample(model, batch))
    torch.testing.assert_close(alone.log_prob, together.log_prob)
    assert torch.equal(alone.correct, together.correct)


def test_rows_about_one_image_are_one_sample(make: Callable[..., Batch]) -> None:
    batch = make([([(2, 1)], 1), ([(3, 1)], 0), ([(2, 2)], -1), ([(9, 1)], 1), ([(2, 2)], -1)], TWO_PICTURES)
    batch.keys = [f"chat/{key}" for key in batch.keys]  # as in a mixture: what they begin with says nothing
    samples = split_by_sample(batch)
    assert [sample.questions for sample in samples] == [[0, 3], [1], [2], [4]]
    assert [sample.batch.keys for sample in samples[:3]] == [["chat/000", "chat/003"], ["chat/001"], ["chat/002"]]
    assert [(sample.tiles.start, sample.tiles.stop) for sample in samples] == [(3, 6), (0, 3), (0, 0), (0, 0)]
    assert samples[1].batch.input_ids.shape == (1, 2 + 1 + 3 + 1)  # prefix, image, instruction, answer: no padding
