from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import DataLoader

from lit_avg.batch import Batch
from lit_avg.feedback.lmm_feedback import lmm_feedback
from lit_avg.routing.losses import best_granularity_loss, ranking_loss
from lit_avg.routing.policies import FixedPolicy, RandomPolicy, RouterPolicy
from lit_avg.stages import RGLF, GumbelRouterTuning, InstructionTuning, MultiGranularityTuning, Pretrain
from lit_avg.stages.base import Stage
from lit_avg.stages.trained_parts import PARTS
from lit_avg.training.optim import Optimization
from lit_avg.utils.errors import UserError
from tests.tiny import tiny_model

Make = Callable[..., Batch]
STAGES = [Pretrain, InstructionTuning, MultiGranularityTuning, RGLF, GumbelRouterTuning]
RATES = Optimization(lr=1e-2, vision_lr=1e-3)


def built(kind: type[Stage], **arguments: object) -> Stage:
    stage = kind(tiny_model, RATES, **arguments)  # pyright: ignore[reportArgumentType]
    stage.configure_model()
    return stage


def loader(*batches: Batch) -> DataLoader[Batch]:
    return DataLoader(list(batches), batch_size=None)


def trainer(folder: Path, steps: int) -> L.Trainer:
    return L.Trainer(
        default_root_dir=folder,
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@pytest.fixture
def pictured(make: Make) -> Batch:
    return make([([(4, 2), (3, 1), (6, 3)], 0), ([(5, 2)], 1)], [((1, 2), (32, 64)), ((2, 1), (60, 20))])


def test_policies_are_compared_besides_the_stages_own_or_refused_as_soon_as_the_model_is_built() -> None:
    stage = MultiGranularityTuning(tiny_model, RATES, policies=[RandomPolicy(seed=7)])
    stage.configure_model()
    assert list(stage.policies)[-2:] == ["fixed 16", "random"]
    for kind, policy, told in (
        (MultiGranularityTuning, RouterPolicy(), "'router' asks the router, which this stage does not train"),
        (RGLF, RouterPolicy(), "there are two named 'router'"),
        (RGLF, FixedPolicy(3), "no granularity of 3 tokens"),
    ):
        with pytest.raises(UserError, match=told):
            kind(tiny_model, RATES, policies=[policy]).configure_model()


def test_the_random_policy_draws_with_the_seed_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # restored after the test
    stage = built(RGLF)
    with isolate_rng():
        L.seed_everything(0, verbose=False)
        first = stage.policies["random"]
        L.seed_everything(1, verbose=False)
        assert stage.policies["random"] != first
        assert stage.policies["random"] == RandomPolicy(seed=1)


@pytest.mark.parametrize("kind", STAGES)
def test_only_what_a_stage_trains_gets_a_gradient_or_a_place_in_the_optimiser(
    kind: type[Stage], pictured: Batch
) -> None:
    stage = built(kind)
    stage.loss(pictured)["loss"].backward()
    in_optimiser = {id(p) for group in stage.parameter_groups() for p in group.parameters}
    for part in PARTS:
        parameters = stage.parameters_of(part)
        trained = part in kind.trains
        assert any(p.grad is not None and bool(p.grad.any()) for p in parameters) == trained, part
        # equal, too, because DDP waits for a gradient of everything that is trained
        assert {id(p) for p in parameters if p.grad is not None} == {id(p) for p in parameters} & in_optimiser, part


def test_every_parameter_belongs_to_exactly_one_part() -> None:
    stage = built(InstructionTuning)
    counted = [id(p) for part in PARTS for p in stage.parameters_of(part)]
    assert sorted(counted) == sorted(id(p) for p in stage.model.parameters())


def test_the_vision_encoder_has_a_learning_rate_of_its_own() -> None:
    rates = {group.name: group.lr for group in built(InstructionTuning).parameter_groups()}
    assert rates == {"vision_encoder": 1e-3, "connector": 1e-2, "llm": 1e-2}


def test_a_part_can_be_left_frozen() -> None:
    stage = MultiGranularityTuning(tiny_model, RATES, frozen=["vision_encoder"])
    stage.configure_model()
    assert [group.name for group in stage.parameter_groups()] == ["connector", "llm"]
    assert not any(p.requires_grad for p in stage.parameters_of("vision_encoder"))
    with pytest.raises(UserError, match="RGLF does not train llm"):
        RGLF(tiny_model, RATES, frozen=["llm"])


def test_stage_3_averages_the_losses_of_all_levels(pictured: Batch) -> None:
    stage = built(MultiGranularityTuning)
    losses = stage.loss(pictured)
    levels = [losses[f"loss@{tokens}"] for tokens in (1, 2, 4, 8, 16)]
    torch.testing.assert_close(losses["loss"], sum(levels) / 5)
    finest = built(InstructionTuning).loss(pictured)["loss"]
    torch.testing.assert_close(losses["loss@16"], finest)


def test_rglf_adds_ranking_and_a_tenth_of_the_cross_entropy(pictured: Batch) -> None:
    stage = built(RGLF)
    model = stage.model
    levels = model.encode_levels(pictured)
    scores = model.route(pictured, levels).log_softmax(dim=1)
    feedback = lmm_feedback(model, pictured, levels).log_prob
    expected = ranking_loss(scores, feedback) + 0.1 * best_granularity_loss(scores, feedback)
    torch.testing.assert_close(stage.loss(pictured)["loss"], expected)


def test_questions_without_an_image_do_not_enter_the_routers_loss(pictured: Batch, batch: Batch) -> None:
    batch.pixel_values = pictured.pixel_values  # the same images and questions, and one question without
    batch.input_ids[:2], batch.labels[:2] = pictured.input_ids, pictured.labels
    torch.testing.assert_close(built(RGLF).loss(batch)["loss"], built(RGLF).loss(pictured)["loss"])


def test_a_batch_without_images_still_has_a_backward_pass(make: Make) -> None:
    losses = built(RGLF).loss(make([([(4, 2)], -1)], []))
    losses["loss"].backward()
    assert losses["loss"].item() == 0


def test_the_gumbel_draw_carries_the_answer_loss_back_to_the_router(pictured: Batch) -> None:
    stage = built(GumbelRouterTuning)
    torch.manual_seed(3)
    loss = stage.loss(pictured)["loss"]
    torch.manual_seed(3)
    assert stage.loss(pictured)["loss"].item() == loss.item()
    loss.backward()
    gradients = [p.grad for p in stage.parameters_of("router")]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_a_batch_with_a_silent_question_names_it(make: Make) -> None:
    batch = make([([(4, 2)], 0), ([(3, 0)], 0)], [((1, 2), (32, 64))])
    with pytest.raises(UserError, match="no answer token to learn from in: 001"):
        built(Pretrain).training_step(batch, 0)


@pytest.mark.parametrize("kind", STAGES)
def test_training_moves_what_is_trained_and_nothing_else(kind: type[Stage], pictured: Batch, tmp_path: Path) -> None:
    stage = built(kind)
    before = {part: [p.detach().clone() for p in stage.parameters_of(part)] for part in PARTS}
    trainer(tmp_path, steps=2).fit(stage, loader(pictured, pictured))
    for part in PARTS:
        pairs = zip(before[part], stage.parameters_of(part), strict=True)
        moved = any(not torch.equal(old, new) for old, new in pairs)
        assert moved == (part in kind.trains), part


def test_validation_and_test_judge_every_question_at_every_level(pictured: Batch, tmp_path: Path) -> None:
    stage = RGLF(tiny_model, RATES)
    run = trainer(tmp_path, steps=1)
    run.validate(stage, loader(pictured), verbose=False)
    assert stage.outcomes is not None
    assert stage.outcomes.correct.shape == (4, 5)
    assert {"val/loss", "val/accuracy", "val/accuracy@16", "val/token_share", "router/selected/16"} <= set(
        run.callback_metrics
    )
    run.test(stage, loader(pictured), verbose=False)
    names = {metric.split("/")[1] for metric in run.callback_metrics if metric.startswith("test/")}
    levels = {f"fixed {tokens}" for tokens in (1, 2, 4, 8, 16)}
    assert names == {"router", "random", "oracle", "coarsest within"} | levels
    assert run.callback_metrics["test/fixed 16/token_share"] == 1


def test_a_stage_starts_from_the_backbone_of_the_one_before(pictured: Batch, tmp_path: Path) -> None:
    first = InstructionTuning(tiny_model, RATES)
    run = trainer(tmp_path, steps=2)
    run.fit(first, loader(pictured, pictured))
    run.save_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    second = MultiGranularityTuning(tiny_model, RATES, init_from=str(tmp_path))
    second.configure_model()
    for old, new in zip(first.model.backbone.parameters(), second.model.backbone.parameters(), strict=True):
        assert torch.equal(old, new)
    with pytest.raises(UserError, match="is a checkpoint of InstructionTuning, but this stage starts from MultiGran"):
        RGLF(tiny_model, RATES, init_from=str(tmp_path)).configure_model()
    with pytest.raises(UserError, match=r"there is no checkpoint at .*nowhere"):
        RGLF(tiny_model, RATES, init_from=str(tmp_path / "nowhere")).configure_model()
    (tmp_path / "notes.txt").write_text("not weights")
    with pytest.raises(UserError, match=r"notes.txt cannot be read as a checkpoint"):
        RGLF(tiny_model, RATES, init_from=str(tmp_path / "notes.txt")).configure_model()


def test_answers_without_any_image_are_scored_once_for_all_levels(make: Make) -> None:
    text = make([([(4, 2), (3, 3)], -1), ([(5, 2)], -1)], [])
    for kind, calls in ((MultiGranularityTuning, 1), (RGLF, 0), (InstructionTuning, 1)):
        stage, seen = built(kind), list[int]()
        stage.model.backbone.hf.lm_head.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        losses = stage.loss(text)
        assert len(seen) == calls, kind.__name__
        assert len({value.item() for name, value in losses.items() if "@" in name}) <= 1
        seen.clear()
        outcomes = stage.evaluate(text)
        assert len(seen) == 1
        assert torch.equal(outcomes.feedback, outcomes.feedback[:, :1].expand_as(outcomes.feedback))


@pytest.mark.parametrize("sequential_backward", [True, False])
def test_scoring_text_once_is_scoring_it_at_each_level(
    sequential_backward: bool, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = make([([(4, 2), (3, 3)], -1), ([(5, 2)], -1)], [])

    def gradients(differ: bool) -> dict[str, torch.Tensor]:
        monkeypatch.setattr("lit_avg.stages.multi_granularity.levels_differ", lambda *_: differ)
        stage = built(MultiGranularityTuning, sequential_backward=sequential_backward)
        loss = stage.loss(text)["loss"]
        loss.backward()
        return {"loss": loss.detach()} | {n: p.grad for n, p in stage.named_parameters() if p.grad is not None}

    once, each = gradients(False), gradients(True)
    assert once.keys() == each.keys()
    for name, expected in each.items():
        tolerance = 0.0 if sequential_backward else 1e-6
        torch.testing.assert_close(once[name], expected, rtol=tolerance, atol=tolerance, msg=name)


def test_the_router_judges_an_empty_tile_where_no_image_is_and_draws_nothing(make: Make) -> None:
    stage, called = built(RGLF), list[str]()
    for name in ("router", "instruction_filter"):
        module = getattr(stage.model, name)
        module.register_forward_hook(lambda *_, name=name: called.append(name))
    stage.model.router.fusion.dropout1.p = 0.5
    before = torch.get_rng_state()
    logits = stage.model.route(batch := make([([(4, 2)], -1)], []), stage.encode_levels(batch))
    assert called == ["instruction_filter", "router"]
    assert torch.equal(before, torch.get_rng_state())
    assert logits.eq(0).all()
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.eq(0).all() for p in stage.model.router.parameters())
