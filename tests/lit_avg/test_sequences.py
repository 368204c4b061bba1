from collections.abc import Callable

import torch

from lit_avg.batch import IGNORED_LABEL, PADDING, PREFIX, Batch
from lit_avg.feedback import lmm_feedback
from lit_avg.model import AvgLlava
from lit_avg.sequences import llm_input, separate_questions, visual_token_counts, without_last_answers

Make = Callable[..., Batch]


def test_packed_questions_are_scored_as_one_by_one(model: AvgLlava, batch: Batch) -> None:
    levels = model.see(batch)
    packed, separate = lmm_feedback(model, batch, levels), lmm_feedback(model, separate_questions(batch), levels)
    torch.testing.assert_close(packed.log_prob, separate.log_prob, rtol=0, atol=2e-6)
    assert torch.equal(packed.correct, separate.correct)


def test_packed_questions_give_the_gradient_of_one_by_one(model: AvgLlava, batch: Batch) -> None:
    def gradients(batch: Batch) -> list[torch.Tensor]:
        model.zero_grad()
        levels = model.see(batch)
        (-model.answer_tokens_at(batch, levels, 4).log_prob.mean()).backward()
        return [p.grad.clone() for p in model.backbone.parameters() if p.grad is not None]

    for packed, separate in zip(gradients(batch), gradients(separate_questions(batch)), strict=True):
        torch.testing.assert_close(packed, separate, rtol=0, atol=1e-5)


def test_a_question_sees_the_prefix_and_itself_only(model: AvgLlava, batch: Batch) -> None:
    rows = llm_input(batch, [0] * 3, model.layout)
    mask = rows.attention_mask()
    assert mask is not None
    first, second = (rows.question[0] == 0).nonzero().flatten(), (rows.question[0] == 1).nonzero().flatten()
    prefix = (rows.question[0] == PREFIX).nonzero().flatten()
    assert not mask[0, 0, second[0], first].any()
    assert mask[0, 0, second[-1], prefix].all()
    assert mask[0, 0, second[-1], second].all()
    assert not mask[0, 0, second[0], second[1:]].any()


def test_positions_of_each_question_go_on_from_the_prefix(model: AvgLlava, batch: Batch) -> None:
    rows = llm_input(batch, [0] * 3, model.layout)
    prefix = int((rows.question[0] == PREFIX).sum())
    for question, length in [(0, 6), (1, 4), (2, 9)]:
        positions = rows.position_ids[0][rows.question[0] == question]
        assert positions.tolist() == list(range(prefix, prefix + length))


def test_rows_of_one_question_need_no_mask(model: AvgLlava, batch: Batch) -> None:
    assert llm_input(separate_questions(batch), [0] * 5, model.layout).attention_mask() is None


def test_counts_are_what_the_sequences_really_hold(model: AvgLlava, batch: Batch) -> None:
    counts = visual_token_counts(batch, model.layout)
    separate = separate_questions(batch)
    for level in range(5):
        rows = llm_input(separate, [level] * 5, model.layout)
        assert rows.visual.sum(dim=1).tolist() == counts[:, level].tolist()


def test_each_row_may_have_a_level_of_its_own(model: AvgLlava, batch: Batch) -> None:
    levels, separate = model.see(batch), separate_questions(batch)
    chosen = [4, 0, 2, 1, 3]
    mixed = model.answer_tokens(separate, levels, chosen)
    feedback = lmm_feedback(model, separate, levels).log_prob
    for question, level in enumerate(chosen):
        mean = mixed.log_prob[mixed.question == question].mean()
        torch.testing.assert_close(mean, feedback[question, level], rtol=0, atol=2e-6)


def test_the_padding_and_the_batch_mates_change_nothing(model: AvgLlava, batch: Batch, make: Make) -> None:
    alone = make([([(4, 2), (3, 1), (6, 3)], 0)], [((1, 2), (32, 64))])
    alone.pixel_values = batch.pixel_values[:3]
    together, single = lmm_feedback(model, batch, model.see(batch)), lmm_feedback(model, alone, model.see(alone))
    torch.testing.assert_close(together.log_prob[:3], single.log_prob, rtol=0, atol=2e-6)


def test_prompts_end_where_the_answer_would_begin(batch: Batch) -> None:
    separate = separate_questions(batch)
    prompts = without_last_answers(separate)
    for question, (asked, answered) in enumerate([(4, 2), (3, 1), (6, 3), (5, 2), (3, 2)]):
        before, after = separate.question[question], prompts.question[question]
        assert int((before != PADDING).sum()) - int((after != PADDING).sum()) == answered
        assert int((after == question).sum()) == asked
    assert (prompts.labels == IGNORED_LABEL).all()
