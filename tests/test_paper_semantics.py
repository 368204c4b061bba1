"""The whole method against the paper's equations, computed the long way: loops, full matrices, nothing batched.

Each part has its own tests beside its module; here they work together on one model and one batch.
"""

from dataclasses import replace
from functools import partial
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from lit_avg.batch import IGNORED_LABEL, PADDING, PREFIX, Batch
from lit_avg.feedback.lmm_feedback import lmm_feedback
from lit_avg.model import AvgLlava
from lit_avg.stages import RGLF, InstructionTuning, MultiGranularityTuning, Pretrain
from lit_avg.stages.base import Stage
from lit_avg.training.optim import Optimization
from lit_avg.visual_tokens.anyres import NEWLINE, visual_sequence
from lit_avg.visual_tokens.granularity import Granularities
from lit_avg.visual_tokens.scaler import GranularityScaler
from tests.close import assert_close
from tests.tiny import make_batch, tiny_model

K = 4
RATE = Optimization(lr=1e-3)


def configured(stage: Stage) -> Stage:
    stage.configure_model()
    return stage


def stacked_pools(tile: Tensor, side: int) -> list[Tensor]:
    """(side², D) to its levels, coarse to fine, halving width and height in turn as in section 3.1."""
    plane, levels = tile.view(side, side, -1), [tile]
    while plane.shape[1] * plane.shape[0] > 1:
        wide = plane.shape[0] == plane.shape[1]
        first, second = (plane[:, ::2], plane[:, 1::2]) if wide else (plane[::2], plane[1::2])
        plane = (first + second) / 2
        levels.insert(0, plane.flatten(0, 1))
    return levels


def most_similar(instruction: Tensor, global_view: Tensor) -> Tensor:
    """The at most K of (T, D) with the highest mean over their row of the full cosine matrix."""
    cosines = torch.stack([torch.stack([F.cosine_similarity(t, v, dim=0) for v in global_view]) for t in instruction])
    return instruction[cosines.mean(dim=1).argsort(descending=True)[:K]]


def voted(model: AvgLlava, levels: list[Tensor], heard: Tensor) -> Tensor:
    """One tile's logits: fuse all its tokens, let every one of them cast a ballot, weigh the ballots."""
    router = model.router
    tokens = torch.cat([*levels, heard])
    layer = torch.nn.TransformerEncoderLayer(tokens.shape[1], 2, tokens.shape[1], dropout=0.0, batch_first=True)
    layer.load_state_dict(router.fusion.state_dict())
    fused = layer(tokens.unsqueeze(0))[0]
    visual = len(tokens) - len(heard)
    weights = torch.cat([router.voter[:visual], router.voter[visual:][: len(heard)]])
    return torch.stack([weight * router.mlp(token) for weight, token in zip(weights, fused, strict=True)]).sum(dim=0)


@pytest.fixture
def question_of_two_tiles() -> Batch:
    return make_batch([([(7, 2)], 0)], [((2, 1), (60, 20))], seed=3)


@given(st.sampled_from([1, 2, 4, 8]), st.integers(1, 5), st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
def test_every_level_is_the_one_below_pooled_1x2_and_2x1_in_turn(side: int, width: int, seed: int) -> None:
    tile = torch.randn(side * side, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    tokens = [side * side >> halvings for halvings in range(2 * side.bit_length() - 1)][::-1]
    levels = GranularityScaler(Granularities(tokens))(tile.unsqueeze(0))
    for level, by_hand in zip(levels, stacked_pools(tile, side), strict=True):
        assert_close(level[0], by_hand)


def test_router_logits_are_what_the_equations_of_section_3_2_say(model: AvgLlava, question_of_two_tiles: Batch) -> None:
    batch = question_of_two_tiles
    features = model.backbone.encode(batch.pixel_values)  # (3 tiles, 16, D), the global view first
    asked = batch.input_ids[0][batch.instruction[0]]
    heard = most_similar(model.backbone.embed(asked), features[0])
    assert len(asked) == 7
    assert len(heard) == K
    by_hand = torch.stack([voted(model, stacked_pools(tile, 4), heard) for tile in features]).mean(dim=0)
    assert_close(model.route(batch, model.encode_levels(batch))[0], by_hand)


def test_with_fewer_instruction_tokens_than_slots_only_those_there_take_part(model: AvgLlava) -> None:
    batch = make_batch([([(2, 1)], 0)], [((1, 2), (32, 64))])
    features = model.backbone.encode(batch.pixel_values)
    heard = most_similar(model.backbone.embed(batch.input_ids[0][batch.instruction[0]]), features[0])
    assert len(heard) == 2
    by_hand = torch.stack([voted(model, stacked_pools(tile, 4), heard) for tile in features]).mean(dim=0)
    assert_close(model.route(batch, model.encode_levels(batch))[0], by_hand)


def log_prob_by_hand(model: AvgLlava, batch: Batch, question: int, level: int) -> Tensor:
    """(answer tokens,) of one question: its own tokens and its image as one sequence, through HF's whole head."""
    row = int(batch.row_of_question[question])
    image = int(batch.image_of_row[row])
    mine = (batch.question[row] == question) | (batch.question[row] == PREFIX)
    ids, labels = batch.input_ids[row][mine], batch.labels[row][mine]
    words = model.backbone.embed(ids)
    if image >= 0:
        begin, grids = sum(batch.tiles[:image]), model.granularities.grids
        tiles = model.scaler(model.backbone.encode(batch.pixel_values))[level][begin : begin + batch.tiles[image]]
        height, width = batch.image_sizes[image].tolist()
        order = visual_sequence(batch.tile_grids[image], (height, width), grids[level], grids[-1])
        newline = model.backbone.image_newline.expand(len(order), -1)
        visual = torch.where((order == NEWLINE).unsqueeze(1), newline, tiles.flatten(0, 1)[order.clamp(min=0)])
        at = int((ids < 0).nonzero()[0])
        words = torch.cat([words[:at], visual, words[at + 1 :]])
        labels = torch.cat([labels[:at], torch.full((len(visual),), IGNORED_LABEL), labels[at + 1 :]])
    hidden = model.backbone.hf.model.language_model(inputs_embeds=words.unsqueeze(0)).last_hidden_state[0]
    log_probs = model.backbone.hf.lm_head(hidden).log_softmax(dim=1)
    answered = (labels != IGNORED_LABEL).nonzero().flatten().tolist()
    return torch.stack([log_probs[place - 1, labels[place]] for place in answered])


def test_feedback_is_the_mean_log_prob_of_an_answer_at_each_level(model: AvgLlava, batch: Batch) -> None:
    feedback = lmm_feedback(model, batch, model.encode_levels(batch)).log_prob
    for question in range(len(batch.keys)):
        for level in range(len(model.granularities)):
            by_hand = log_prob_by_hand(model, batch, question, level).mean()
            assert_close(feedback[question, level], by_hand)


@pytest.mark.parametrize("stage", [Pretrain, InstructionTuning])
def test_stages_1_and_2_average_the_answer_tokens_at_the_finest_level(
    stage: type[Stage], model: AvgLlava, batch: Batch
) -> None:
    by_hand = -torch.cat([log_prob_by_hand(model, batch, question, -1) for question in range(len(batch.keys))]).mean()
    assert_close(configured(stage(lambda: model, RATE)).loss(batch)["loss"], by_hand)


def test_stage_3_averages_that_over_the_levels(model: AvgLlava, batch: Batch) -> None:
    losses = [
        -torch.cat([log_prob_by_hand(model, batch, question, level) for question in range(len(batch.keys))]).mean()
        for level in range(len(model.granularities))
    ]
    loss = configured(MultiGranularityTuning(lambda: model, RATE)).loss(batch)["loss"]
    assert_close(loss, torch.stack(losses).mean())


@pytest.mark.parametrize("alpha", [0.0, 0.1, 2.0])
def test_stage_4_is_the_pair_sum_and_alpha_times_the_cross_entropy(alpha: float, model: AvgLlava, batch: Batch) -> None:
    levels = model.encode_levels(batch)
    scores = model.route(batch, levels).log_softmax(dim=1)
    feedback = lmm_feedback(model, batch, levels).log_prob
    totals: list[Tensor] = []
    for s, p in list(zip(scores, feedback, strict=True))[:4]:  # the fifth has no image
        better_first = sorted(range(len(p)), key=lambda level: -float(p[level]))
        pairs = [(s[worse] - s[better] + p[better] - p[worse]) for better, worse in combinations(better_first, 2)]
        totals.append(torch.stack(pairs).relu().sum() - alpha * s[better_first[0]])
    by_hand = torch.stack(totals).mean()
    assert_close(configured(RGLF(lambda: model, RATE, alpha=alpha)).loss(batch)["loss"], by_hand)


def test_no_gradient_flows_through_the_feedback_even_where_nothing_is_frozen(model: AvgLlava, batch: Batch) -> None:
    stage = configured(RGLF(lambda: model, RATE))
    model.requires_grad_(True)
    stage.loss(batch)["loss"].backward()
    reached = {name for name, parameter in model.backbone.named_parameters() if parameter.grad is not None}
    assert reached == {"hf.model.language_model.embed_tokens.weight"}  # as what the router hears, not as what is scored
    assert all(parameter.grad is not None for parameter in model.router.parameters())


def routed(model: AvgLlava, batch: Batch) -> Tensor:
    return model.route(batch, model.encode_levels(batch))


def test_other_answers_leave_the_routers_logits_bit_equal(model: AvgLlava, batch: Batch) -> None:
    others = torch.where(batch.labels != IGNORED_LABEL, (batch.input_ids + 7) % 40 + 3, batch.input_ids)
    assert not torch.equal(others, batch.input_ids)
    assert torch.equal(routed(model, batch), routed(model, replace(batch, input_ids=others)))


def test_whatever_the_padding_holds_leaves_the_routers_logits_bit_equal(model: AvgLlava, batch: Batch) -> None:
    padded = batch.question == PADDING
    assert padded.any()
    assert torch.equal(
        routed(model, batch), routed(model, replace(batch, input_ids=batch.input_ids.masked_fill(padded, 17)))
    )


def test_another_batch_mate_leaves_a_questions_logits_bit_equal(model: AvgLlava) -> None:
    rows, images = [([(5, 2)], 0), ([(5, 2)], 1)], [((1, 2), (32, 64)), ((2, 1), (60, 20))]
    one, other = make_batch(rows, images, seed=0), make_batch(rows, images, seed=1)
    mine = one.tiles[0]
    mixed = replace(
        other,
        input_ids=torch.stack([one.input_ids[0], other.input_ids[1]]),
        pixel_values=torch.cat([one.pixel_values[:mine], other.pixel_values[mine:]]),
    )
    assert not torch.equal(routed(model, one)[1], routed(model, mixed)[1])
    assert torch.equal(routed(model, one)[0], routed(model, mixed)[0])


def test_an_empty_slot_holds_nothing_that_could_be_heard(model: AvgLlava) -> None:
    batch = make_batch([([(2, 1)], 0)], [((1, 2), (32, 64))])
    with_noise = partial(torch.nn.functional.pad, value=9.0)
    tokens, valid = torch.randn(1, 2, 24), torch.ones(1, 2, dtype=torch.bool)
    view = model.encode_levels(batch)[-1][:1]
    short = model.instruction_filter(tokens, valid, view)
    noisy = model.instruction_filter(with_noise(tokens, (0, 0, 0, 3)), F.pad(valid, (0, 3)), view)
    assert torch.equal(short.valid, noisy.valid)
    assert torch.equal(short.embeddings, noisy.embeddings)
    assert tiny_model().router.instruction_tokens == short.valid.shape[1] == K
