from collections.abc import Callable

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

from lit_avg.batch import IGNORED_LABEL, PADDING, PREFIX, Batch
from lit_avg.feedback.lmm_feedback import lmm_feedback
from lit_avg.llava_next.llm_input import llm_input, separate_questions, visual_token_counts, without_last_answers
from lit_avg.model import AvgLlava
from lit_avg.visual_tokens.anyres import VisualLayout
from lit_avg.visual_tokens.granularity import Granularities
from tests.tiny import TILE, make_batch

Make = Callable[..., Batch]

GRIDS = [(1, 2), (2, 1), (2, 2), (1, 3), (3, 1)]
SIDE = 8  # tokens a tile is wide and high: 4, 8, 16, 32 and 64 at the five levels, with the tests' tiles of 32 pixels
COUNTED = VisualLayout(Granularities((4, 8, 16, 32, 64)))


def test_packed_questions_are_scored_as_one_by_one(model: AvgLlava, batch: Batch) -> None:
    levels = model.encode_levels(batch)
    packed, separate = lmm_feedback(model, batch, levels), lmm_feedback(model, separate_questions(batch), levels)
    torch.testing.assert_close(packed.log_prob, separate.log_prob, rtol=0, atol=2e-6)
    assert torch.equal(packed.correct, separate.correct)


def test_packed_questions_give_the_gradient_of_one_by_one(model: AvgLlava, batch: Batch) -> None:
    def gradients(batch: Batch) -> list[torch.Tensor]:
        model.zero_grad()
        levels = model.encode_levels(batch)
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


sizes = st.tuples(st.integers(1, 2000), st.integers(1, 2000))


@settings(deadline=None, max_examples=60)
@given(images=st.lists(st.tuples(st.sampled_from([(0, 0), *GRIDS]), sizes), min_size=1, max_size=3))
def test_the_one_count_is_what_every_row_really_holds_at_every_level(
    images: list[tuple[tuple[int, int], tuple[int, int]]],
) -> None:
    rows = [([(2, 1)], image) for image in range(len(images))]
    batch = make_batch([*rows, ([(3, 2)], -1)], images)
    counts = visual_token_counts(batch, COUNTED)
    texts = (batch.question != PADDING).sum(dim=1) - (batch.image_of_row >= 0).long()
    for level in range(len(COUNTED.granularities)):
        built = llm_input(batch, [level] * len(batch.input_ids), COUNTED)
        assert built.visual.sum(dim=1).tolist() == counts[:, level].tolist()
        assert (built.question != PADDING).sum(dim=1).tolist() == (texts + counts[:, level]).tolist()
        tokens = built.source.max() - batch.input_ids.numel()  # the newline is number 0, then come the texts
        assert tokens <= sum(batch.tiles) * COUNTED.granularities.tokens[level]


def transformers_that_count() -> LlavaNextForConditionalGeneration:
    """A model as small as can be: only how it packs features is of interest."""
    size = {"hidden_size": 2, "intermediate_size": 2, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision = size | {"model_type": "clip_vision_model", "image_size": TILE, "patch_size": TILE // SIDE}
    llm = size | {"model_type": "llama", "vocab_size": 8}
    pinpoints = [[TILE * rows, TILE * columns] for rows, columns in GRIDS]
    config = LlavaNextConfig(vision_config=vision, text_config=llm, image_grid_pinpoints=pinpoints)
    return LlavaNextForConditionalGeneration(config)


COUNTING = transformers_that_count()


@settings(deadline=None, max_examples=100)
@given(size=sizes)
def test_the_one_count_is_that_of_transformers_at_the_finest_level(size: tuple[int, int]) -> None:
    grid = get_anyres_image_grid_shape(size, COUNTING.config.image_grid_pinpoints, TILE)
    features = [torch.zeros(1 + grid[0] * grid[1], SIDE * SIDE, 2)]
    newline = COUNTING.model.image_newline
    _, lengths = COUNTING.pack_image_features(features, torch.tensor([size]), "default", newline)
    batch = make_batch([([(2, 1)], 0)], [(grid, size)])
    assert visual_token_counts(batch, COUNTED)[0, -1] == lengths[0]


def test_each_row_may_have_a_level_of_its_own(model: AvgLlava, batch: Batch) -> None:
    levels, separate = model.encode_levels(batch), separate_questions(batch)
    chosen = [4, 0, 2, 1, 3]
    mixed = model.answer_tokens(separate, levels, chosen)
    feedback = lmm_feedback(model, separate, levels).log_prob
    for question, level in enumerate(chosen):
        mean = mixed.log_prob[mixed.question == question].mean()
        torch.testing.assert_close(mean, feedback[question, level], rtol=0, atol=2e-6)


def test_the_padding_and_the_batch_mates_change_nothing(model: AvgLlava, batch: Batch, make: Make) -> None:
    alone = make([([(4, 2), (3, 1), (6, 3)], 0)], [((1, 2), (32, 64))])
    alone.pixel_values = batch.pixel_values[:3]
    together, single = (
        lmm_feedback(model, batch, model.encode_levels(batch)),
        lmm_feedback(model, alone, model.encode_levels(alone)),
    )
    torch.testing.assert_close(together.log_prob[:3], single.log_prob, rtol=0, atol=2e-6)


def test_prompts_end_where_the_answer_would_begin(batch: Batch) -> None:
    separate = separate_questions(batch)
    prompts = without_last_answers(separate)
    for question, (asked, answered) in enumerate([(4, 2), (3, 1), (6, 3), (5, 2), (3, 2)]):
        before, after = separate.question[question], prompts.question[question]
        assert int((before != PADDING).sum()) - int((after != PADDING).sum()) == answered
        assert int((after == question).sum()) == asked
    assert (prompts.labels == IGNORED_LABEL).all()
