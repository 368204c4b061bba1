"""What is kept on a device, counted by hand."""

import pytest

from benchmarks.plan import make_stage
from benchmarks.shapes import SHAPES
from lit_avg.planning.disk import checkpoints
from lit_avg.planning.schedule import Schedule, schedule
from lit_avg.planning.strategies import STRATEGIES, StrategyPlan, Weights, configured_strategy
from lit_avg.utils.errors import UserError

WEIGHTS = Weights(all=1000, trained=800, frozen_backbone=200, largest=100, largest_layer=50, outside=300)
BY_NAME = {strategy.name: strategy for strategy in STRATEGIES}


@pytest.mark.parametrize(
    ("name", "weights", "gradients", "optimiser"),
    [
        ("ddp", 4 * 1000, 0, 8 * 800),  # gradients are the step's own
        ("zero2", 2 * 1000, 2 * 400, 12 * 400),  # bfloat16; a float32 copy and two moments of each half
        ("zero3", 2 * 500, 2 * 400, 12 * 400),
        ("zero3_offload", 0, 0, 0),
        ("fsdp2", 4 * 500, 4 * 400, 8 * 400),
    ],
)
def test_two_devices_share_what_a_strategy_deals_out(name: str, weights: int, gradients: int, optimiser: int) -> None:
    kept = BY_NAME[name].kept(WEIGHTS, "bf16-mixed", devices=2)
    assert (kept.weights, kept.gradients, kept.optimiser) == (weights, gradients, optimiser)


def test_what_is_offloaded_is_in_the_host() -> None:
    kept = BY_NAME["zero3_offload"].kept(WEIGHTS, "bf16-mixed", devices=2)
    # the largest tensor while it is loaded; a float32 copy, two moments and gradients of 400; a half of the weights
    assert kept.host == 4 * 100 + 16 * 400 + 2 * 500


@pytest.mark.parametrize(
    ("given", "devices", "name"),
    [
        ("auto", 1, "one device"),
        ("auto", 8, "ddp"),
        ("deepspeed_stage_2", 8, "zero2"),
        ({"class_path": "lightning.pytorch.strategies.DeepSpeedStrategy", "init_args": {"stage": 3}}, 8, "zero3"),
        ({"class_path": "lightning.pytorch.strategies.ModelParallelStrategy", "init_args": None}, 8, "fsdp2"),
    ],
)
def test_a_configs_strategy_is_known(given: object, devices: int, name: str) -> None:
    assert configured_strategy(given, devices).name == name


def test_a_strategy_of_which_nothing_is_known_is_refused() -> None:
    with pytest.raises(UserError, match="nothing is known of the memory that xla takes"):
        configured_strategy("xla", 8)


def test_products_are_in_what_precision_and_strategy_make_of_them() -> None:
    assert BY_NAME["ddp"].computed("bf16-mixed") == "autocast"
    assert BY_NAME["fsdp2"].computed("bf16-mixed") == "autocast"
    assert BY_NAME["zero2"].computed("bf16-mixed") == "bfloat16"
    assert BY_NAME["ddp"].computed("bf16-true") == "bfloat16"
    assert StrategyPlan("x").computed("32-true") == "float32"


def test_steps_validations_and_samples_follow_from_the_trainers_options() -> None:
    trainer = {"max_steps": -1, "max_epochs": 1, "limit_train_batches": None, "limit_val_batches": None}
    trainer |= {"val_check_interval": 1000, "check_val_every_n_epoch": None}
    # 100,000 samples by 32 at a time: 3,125 batches, 782 steps of 4 with the last one; 3 validations
    run = schedule(trainer, 100_000, 200, batch=128, accumulated=4, eval_batch=32)
    assert (run.epoch, run.steps, run.validations, run.validated) == (100_000, 782, 3, 200)
    shorter = schedule(trainer | {"max_steps": 500, "limit_val_batches": 2}, None, 200, 128, 4, 32)
    assert (shorter.epoch, shorter.steps, shorter.samples) == (None, 500, 64_000)
    assert (shorter.validations, shorter.validated) == (2, 64)


def test_a_checkpoint_holds_what_is_trained_and_the_optimisers_part() -> None:
    stage = make_stage(SHAPES["tiny"], 2, False, "meta")
    trainer = {"callbacks": [{"class_path": "callbacks.LastCheckpoint", "init_args": {"every_minutes": 5.0}}]}
    run = Schedule(samples=1000, epoch=1000, steps=100, validations=2, validated=10)
    for name, size in {"ddp": (4 + 8) * 800, "zero3": (2 + 12) * 800}.items():
        strategy = BY_NAME[name]
        written = checkpoints(stage, WEIGHTS, strategy, "bf16-mixed", trainer, run, moments=8)
        frozen = (2 if name == "zero3" else 4) * 200  # random, so that it lies nowhere else
        assert written.size == size + frozen
        assert (written.saves, written.minutes) == (2 + 1, 5.0)  # after validations and at the end
