from collections.abc import Callable
from dataclasses import fields

import pytest
import torch

from lit_avg.batch import IGNORED_LABEL, IMAGE_PLACEHOLDER, Batch
from lit_avg.routing.instruction_filter import InstructionFilter, instruction_candidates
from lit_avg.routing.losses import ranking_loss, release_ranking_loss
from lit_avg.semantics import PRESETS, Choices, EmptySlots, Semantics, choices_of
from lit_avg.utils.errors import UserError
from tests.tiny import tiny_model

ROW = [([(4, 2)], 0)]
PICTURE = [((1, 2), (32, 64))]


def test_a_point_left_open_is_as_the_preset_says_and_one_that_is_not_is_as_it_says() -> None:
    assert choices_of("paper") == Choices()
    mixed = choices_of(Semantics("release", unpad="true share", margin=0.1))
    assert (mixed.unpad, mixed.margin, mixed.attention) == ("true share", 0.1, "tiles")


def test_semantics_and_choices_name_the_same_points() -> None:
    assert [field.name for field in fields(Semantics)] == ["preset", *(field.name for field in fields(Choices))]


def test_the_presets_differ_in_every_point_but_the_margin() -> None:
    paper, release = vars(PRESETS["paper"]), vars(PRESETS["release"])
    assert [name for name in paper if paper[name] == release[name]] == ["margin"]


def test_an_unknown_word_is_refused_with_those_there_are() -> None:
    with pytest.raises(UserError, match="semantics must be one of paper, release, but is papr"):
        choices_of("papr")  # pyright: ignore[reportArgumentType]  what YAML cannot say, Python can
    with pytest.raises(UserError, match="semantics: unpad must be one of true share, token grid, but is none"):
        Semantics(unpad="none")  # pyright: ignore[reportArgumentType]


def test_uniform_scores_and_losses_0_1_3_cost_6_by_the_paper_and_7_5_by_the_release() -> None:
    scores, feedback = torch.full((1, 3), 1 / 3).log(), -torch.tensor([[0.0, 1.0, 3.0]])
    assert ranking_loss(scores, feedback).item() == 1 + 2 + 3
    assert release_ranking_loss(scores, feedback).item() == (1 + 2) / 2 + 2 * 3
    assert release_ranking_loss(scores, feedback[:, [2, 0, 1]]).item() == 7.5  # whatever the order
    assert release_ranking_loss(scores, feedback, margin=0.1).item() == pytest.approx(0.75)


def test_an_image_with_one_tile_is_routed_without_any_exchange_between_its_tokens(make: Callable[..., Batch]) -> None:
    # Across tiles there is only itself to attend to: another token changes its own vote and nobody else's.
    model = tiny_model(semantics="release")
    tokens = torch.randn(1, 31 + 4, 24)
    seen = torch.ones(1, 35, dtype=torch.bool)
    before = model.router.fuse(tokens, seen, [1])
    tokens[0, 7] += 1.0
    changed = (model.router.fuse(tokens, seen, [1]) != before).any(dim=2)[0]
    assert changed.nonzero().flatten().tolist() == [7]


def test_the_releases_logits_are_those_of_images_routed_alone(batch: Batch, make: Callable[..., Batch]) -> None:
    rows, images = [([(4, 2)], 0), ([(4, 2)], 1)], [((1, 2), (32, 64)), ((2, 1), (60, 20))]
    model, together = tiny_model(semantics="release"), make(rows, images)
    both = model.route(together, model.encode_levels(together))
    alone = make(rows[:1], images[:1])
    alone.input_ids, alone.pixel_values = together.input_ids[:1], together.pixel_values[:3]
    torch.testing.assert_close(model.route(alone, model.encode_levels(alone))[0], both[0])


def test_the_norm_bounds_the_logits_below_two(batch: Batch) -> None:
    model = tiny_model(semantics="release")
    logits = model.route(batch, model.encode_levels(batch))
    assert logits.abs().max() <= 2.0  # sqrt(N - 1) for N = 5


def test_all_but_labels_is_the_prefix_and_the_question_and_never_the_answer_of_training(
    make: Callable[..., Batch],
) -> None:
    batch = make(ROW, PICTURE)  # 2 tokens of prefix, the image, 4 of instruction, 2 of answer
    heard = instruction_candidates(batch, "all but labels", training=True)
    text = batch.input_ids[0][batch.input_ids[0] != IMAGE_PLACEHOLDER]
    assert torch.equal(heard.input_ids[0][~heard.empty[0]], text)
    assert heard.heard[0].tolist() == [True] * 6 + [False] * 2 + [False]  # the last place is empty
    turns = instruction_candidates(batch, "user turns", training=True)
    assert turns.heard[0].tolist() == [False] * 2 + [True] * 4 + [False] * 2 + [False]


def test_in_evaluation_the_last_answer_is_not_there_to_be_heard_and_earlier_ones_are(
    make: Callable[..., Batch],
) -> None:
    batch = make(ROW, PICTURE)
    evaluated = instruction_candidates(batch, "all but labels", training=False)
    assert evaluated.heard[0].tolist() == [True] * 6 + [False]
    batch.labels[0, 4] = batch.input_ids[0, 4]  # the second of the 4 tokens is an earlier answer
    assert instruction_candidates(batch, "all but labels", training=False).heard[0].tolist() == [True] * 6 + [False]
    training = instruction_candidates(batch, "all but labels", training=True)
    assert training.heard[0].tolist() == [True] * 3 + [False] + [True] * 2 + [False] * 3


def test_filled_slots_hear_the_answer_and_masked_ones_do_not(make: Callable[..., Batch]) -> None:
    choices: list[tuple[EmptySlots, bool]] = [("filled", True), ("masked", False)]
    for empty_slots, leaks in choices:
        batch, changed = make(ROW, PICTURE), make(ROW, PICTURE)
        answer = changed.labels != IGNORED_LABEL
        changed.input_ids[answer] = changed.labels[answer] = 3
        assert not torch.equal(batch.input_ids, changed.input_ids)
        model = tiny_model(k=8, slots=8, semantics=Semantics(empty_slots=empty_slots))
        before, after = (model.route(one, model.encode_levels(one)) for one in (batch, changed))
        assert torch.equal(before, after) != leaks


def test_a_filter_with_more_slots_than_tokens_fills_the_rest_with_zeros() -> None:
    tokens, valid = torch.ones(1, 2, 3), torch.tensor([[True, False]])
    filled = InstructionFilter(4, "filled")(tokens, valid, torch.ones(1, 1, 3))
    assert filled.embeddings[0, :, 0].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert filled.valid.all()
