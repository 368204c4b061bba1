from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import LlavaNextForConditionalGeneration

from lit_avg.batch import IGNORED_LABEL, IMAGE_PLACEHOLDER, PADDING, Batch
from lit_avg.feedback.lmm_feedback import lmm_feedback
from lit_avg.llava_next.llm_input import separate_questions, visual_token_counts
from lit_avg.model import AvgLlava
from lit_avg.utils.errors import UserError
from tests.tiny import tiny_model

Make = Callable[..., Batch]


def hf_loss(hf: LlavaNextForConditionalGeneration, batch: Batch, row: int, visual_tokens: int) -> torch.Tensor:
    """What transformers' own model makes of one row at the finest level."""
    for config in (hf.config, hf.model.config):
        config.image_grid_pinpoints = [[32, 64], [64, 32]]
        config.image_token_id = 0  # no token of the batch
    length = int((batch.question[row] != PADDING).sum())
    ids, labels = batch.input_ids[row, :length], batch.labels[row, :length]
    at = int((ids == IMAGE_PLACEHOLDER).nonzero()[0])
    ids = torch.cat([ids[:at], torch.zeros(visual_tokens, dtype=torch.long), ids[at + 1 :]])
    labels = torch.cat([labels[:at], torch.full((visual_tokens,), IGNORED_LABEL), labels[at + 1 :]])
    image = int(batch.image_of_row[row])
    first = sum(batch.tiles[:image])
    return hf(
        input_ids=ids.unsqueeze(0),
        labels=labels.unsqueeze(0),
        attention_mask=torch.ones(1, len(ids)),
        pixel_values=batch.pixel_values[first : first + batch.tiles[image]].unsqueeze(0),
        image_sizes=batch.image_sizes[image].unsqueeze(0),
    ).loss


def test_the_finest_level_loses_what_transformers_llava_next_loses(model: AvgLlava, batch: Batch) -> None:
    separate = separate_questions(batch)
    feedback = lmm_feedback(model, separate, model.encode_levels(separate)).log_prob[:, -1]
    counts = visual_token_counts(separate, model.layout)[:, -1].tolist()
    for row in range(4):  # the fifth has no image
        expected = hf_loss(model.backbone.hf, separate, row, counts[row])
        torch.testing.assert_close(-feedback[row], expected.detach(), rtol=0, atol=1e-5)


def test_the_router_hears_the_instruction(model: AvgLlava, batch: Batch) -> None:
    before = model.route(batch, model.encode_levels(batch))
    batch.input_ids[0, 4] += 1  # a token of the first question
    after = model.route(batch, model.encode_levels(batch))
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1:], after[1:])


def test_without_instruction_tokens_all_questions_on_an_image_are_routed_alike(batch: Batch) -> None:
    model = tiny_model(k=0)
    logits = model.route(batch, model.encode_levels(batch))
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[3])


def test_neither_answer_nor_padding_reaches_the_router(model: AvgLlava, batch: Batch) -> None:
    before = model.route(batch, model.encode_levels(batch))
    hidden = ~batch.instruction & (batch.input_ids != IMAGE_PLACEHOLDER)
    changed = replace(batch, input_ids=torch.where(hidden, 7, batch.input_ids))
    assert torch.equal(model.route(changed, model.encode_levels(changed)), before)


def test_a_question_without_an_image_has_nothing_to_route(model: AvgLlava, batch: Batch) -> None:
    assert model.route(batch, model.encode_levels(batch))[4].tolist() == [0.0] * 5


def test_a_batch_without_images_still_runs_the_encoder(model: AvgLlava, make: Make) -> None:
    batch = make([([(4, 2)], -1), ([(3, 3)], -1)], [])
    levels = model.encode_levels(batch)
    assert [len(level) for level in levels] == [0] * 5
    model.answer_tokens_at(batch, levels, 4).log_prob.sum().backward()
    projector = model.backbone.hf.model.multi_modal_projector.linear_1.weight
    assert projector.grad is not None
    assert not projector.grad.any()


def test_a_question_without_an_answer_is_named(model: AvgLlava, make: Make) -> None:
    batch = make([([(4, 2)], 0), ([(3, 0)], 0)], [((1, 2), (32, 64))])
    with pytest.raises(UserError, match="no answer token to learn from in: 001"):
        lmm_feedback(model, batch, model.encode_levels(batch))


def test_the_finest_level_must_be_the_encoders_own(batch: Batch) -> None:
    with pytest.raises(UserError, match="16 tokens per tile, but the finest granularity is 4"):
        tiny_model(levels=(1, 2, 4)).encode_levels(batch)


def test_k_beyond_the_routers_slots_is_refused_when_the_model_is_made() -> None:
    with pytest.raises(UserError, match="k = 5 tokens, but the router was built for 4"):
        tiny_model(k=5)


def test_an_answer_counts_as_correct_exactly_when_greedy_decoding_gives_it(model: AvgLlava, batch: Batch) -> None:
    chosen = [4, 0, 2, 1, 3]
    generated = model.generate_ids(batch, chosen, max_new_tokens=3)
    separate = separate_questions(batch)
    for question, level in enumerate(chosen):
        answer = separate.labels[question] != IGNORED_LABEL
        tokens = generated[question, : int(answer.sum())]
        for answered in (tokens, tokens + 1):
            separate.input_ids[question, answer] = answered
            separate.labels[question, answer] = answered
            correct = lmm_feedback(model, separate, model.encode_levels(separate)).correct
            assert bool(correct[question, level]) == torch.equal(answered, tokens)
