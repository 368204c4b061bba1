"""Training stops at the first number that is not finite, and what was saved before is good."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch.utils.data import DataLoader

from callbacks import LastCheckpoint, LossRecord, ResultsWriter
from lit_avg.batch import Batch
from lit_avg.stages import RGLF, GumbelRouterTuning, InstructionTuning, MultiGranularityTuning, Pretrain
from lit_avg.stages.base import Stage
from lit_avg.training.optim import Optimization
from lit_avg.utils.errors import UserError
from lit_avg.utils.finite import check_weights, non_finite
from tests.tiny import tiny_model
from tests.two_ranks import on_ranks, one_rank_meets_a_nan

Make = Callable[..., Batch]
STAGES = [Pretrain, InstructionTuning, MultiGranularityTuning, RGLF, GumbelRouterTuning]
RATES = Optimization(lr=1e-3)


def batches(make: Make, count: int, bad: int | None = None) -> list[Batch]:
    """Batches of four questions, `<batch>-0` to `<batch>-3`; the pixels of one are no numbers."""
    made = [
        make([([(4, 2), (3, 1), (6, 3)], 0), ([(5, 2)], 1)], [((1, 2), (32, 64)), ((2, 1), (60, 20))], n)
        for n in range(count)
    ]
    named = [
        replace(batch, keys=[f"{number}-{question}" for question in range(4)]) for number, batch in enumerate(made)
    ]
    if bad is not None:
        named[bad].pixel_values[0, 0, 0, 0] = math.nan
    return named


def fit(stage: L.LightningModule, shown: list[Batch], folder: Path, **options: Any) -> None:
    trainer = L.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ResultsWriter(), LossRecord(), LastCheckpoint(every_steps=1)],
        num_sanity_val_steps=0,
        **{"max_epochs": 1} | options,
    )
    validation = DataLoader(shown[:1], batch_size=None)
    trainer.fit(stage, DataLoader(shown, batch_size=None), validation)


def saved(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def assert_good(folder: Path, step: int) -> None:
    """What is left of a run that met a bad number after so many steps."""
    checkpoint = saved(folder)
    assert checkpoint["global_step"] == step
    assert non_finite(checkpoint["state_dict"]) == []
    assert "nan" not in (folder / "losses.csv").read_text()
    assert "inf" not in (folder / "losses.csv").read_text()
    assert not (folder / "result.json").exists()


@pytest.mark.parametrize("accumulated", [1, 2, 3])
@pytest.mark.parametrize("kind", STAGES)
def test_a_sample_that_gives_no_number_ends_training_by_its_name(
    kind: type[Stage], accumulated: int, make: Make, tmp_path: Path
) -> None:
    # of six batches the fourth is bad: the fourth step, or the second of two or of three batches each
    step = {1: 4, 2: 2, 3: 2}[accumulated]
    with pytest.raises(UserError) as told:
        fit(kind(tiny_model, RATES), batches(make, 6, bad=3), tmp_path, accumulate_grad_batches=accumulated)
    message = str(told.value)
    assert f"training stopped at step {step}: the loss is nan (samples: 3-0, 3-1, 3-2, 3-3)" in message
    assert f"the last good checkpoint is {tmp_path}/checkpoints/last.ckpt, of step {step - 1}." in message
    assert "it was 0.0" in message
    assert_good(tmp_path, step - 1)


def test_a_validation_amid_an_accumulated_step_saves_nothing_bad(make: Make, tmp_path: Path) -> None:
    options = {"accumulate_grad_batches": 2, "val_check_interval": 3, "max_steps": 3, "max_epochs": None}
    with pytest.raises(UserError, match="samples: 2-0"):
        fit(InstructionTuning(tiny_model, RATES), batches(make, 6, bad=2), tmp_path, **options)
    assert_good(tmp_path, 1)


def test_without_a_checkpoint_it_says_so(make: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training stopped at step 1: .* no checkpoint was saved before"):
        fit(Pretrain(tiny_model, RATES), batches(make, 2, bad=0), tmp_path)
    assert not (tmp_path / "checkpoints").exists()


class InfiniteGradient(InstructionTuning):
    """Its loss is fine, and its gradient is not: the root's is infinite at 0."""

    bad = 2

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        parts = super().loss(batch)
        if batch.keys[0].startswith(f"{self.bad}-"):
            parts["loss"] = parts["loss"] + (self.model.backbone.image_newline.sum() * 0).sqrt()
        return parts


def test_a_gradient_that_is_none_ends_training_before_the_weights_move(make: Make, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"the gradient of model\.backbone\..*image_newline is not finite \(samples: 2-0, 2-1"
    ):
        fit(InfiniteGradient(tiny_model, RATES), batches(make, 4), tmp_path)
    assert_good(tmp_path, 2)


class Exploding(InstructionTuning):
    """A last step so large that nothing is left but infinities; no loss follows to tell."""

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        super().optimizer_step(*arguments, **named)
        if self.trainer.global_step == 2:  # it is counted when it is done
            self.model.backbone.image_newline.data.fill_(math.inf)


@pytest.mark.parametrize("validates", [True, False])
def test_weights_that_are_none_are_never_saved(validates: bool, make: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"stopped after step 3: model\.backbone\..*image_newline is not finite"):
        fit(Exploding(tiny_model, RATES), batches(make, 3), tmp_path, limit_val_batches=1.0 if validates else 0)
    assert_good(tmp_path, 2)


def scaled(first: float) -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=first))


def test_a_gradient_scaler_may_leave_steps_out_until_there_is_nothing_left_to_lower(make: Make, tmp_path: Path) -> None:
    # a scale of 2^127 times a gradient of more than 2 is beyond float32; each such step is left out and halves it
    fit(InstructionTuning(tiny_model, RATES), batches(make, 3), tmp_path / "lowered", plugins=[scaled(2.0**127)])
    assert saved(tmp_path / "lowered")["global_step"] == 3
    shown = [replace(batch, keys=[f"2-{key}" for key in batch.keys]) for batch in batches(make, 6)]  # all are bad
    with pytest.raises(UserError, match=r"the gradient of .* is not finite"):  # 4, 2, and at 1 it is over
        fit(InfiniteGradient(tiny_model, RATES), shown, tmp_path / "over", plugins=[scaled(4.0)])
    assert saved(tmp_path / "over")["global_step"] == 2


def test_a_gradient_scaler_forgives_no_loss(make: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the loss is nan"):
        fit(InstructionTuning(tiny_model, RATES), batches(make, 3, bad=1), tmp_path, plugins=[scaled(2.0**16)])
    assert_good(tmp_path, 1)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions_stop_as_well(
    precision: Literal["bf16-mixed", "bf16-true", "64-true"], make: Make, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="the loss is nan"):
        fit(InstructionTuning(tiny_model, RATES), batches(make, 3, bad=1), tmp_path, precision=precision)
    assert_good(tmp_path, 1)


@pytest.mark.parametrize("kind", ["InstructionTuning", "RGLF", "GumbelRouterTuning"])
def test_two_ranks_stop_together_and_tell_whose_samples_they_were(kind: str, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    assert on_ranks(2, marks, one_rank_meets_a_nan, kind, str(tmp_path)) == [0, 0]
    for rank in range(2):
        told = (tmp_path / f"told{rank}").read_text()
        assert "training stopped at step 2: the loss is nan (samples: 1-1-0, 1-1-1, 1-1-2; rank 1)" in told


@pytest.mark.slow
@pytest.mark.usefixtures("deepspeed_operators")
@pytest.mark.parametrize("strategy", ["zero2", "zero3", "fsdp2"])
def test_so_they_do_where_gradients_or_weights_are_spread_over_them(strategy: str, tmp_path: Path) -> None:
    assert on_ranks(2, tmp_path / "marks", one_rank_meets_a_nan, "InstructionTuning", str(tmp_path), strategy) == [0, 0]
    for rank in range(2):
        told = (tmp_path / f"told{rank}").read_text()
        assert "training stopped at step 2: the loss is nan (samples: 1-1-0, 1-1-1, 1-1-2; rank 1)" in told


def test_a_run_does_not_go_on_from_a_checkpoint_that_is_no_good(make: Make, tmp_path: Path) -> None:
    fit(Pretrain(tiny_model, RATES), batches(make, 2), tmp_path)
    content = saved(tmp_path)
    name = next(name for name in content["state_dict"] if name.endswith("linear_1.weight"))
    content["state_dict"][name][0, 0] = math.nan
    torch.save(content, tmp_path / "bad.ckpt")
    with pytest.raises(UserError, match=f"{name} has numbers that are not finite"):
        L.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False, default_root_dir=tmp_path).fit(
            Pretrain(tiny_model, RATES),
            DataLoader(batches(make, 2), batch_size=None),
            ckpt_path=tmp_path / "bad.ckpt",
            weights_only=True,
        )
    (tmp_path / "bad.ckpt").replace(tmp_path / "checkpoints" / "last.ckpt")
    (tmp_path / "result.json").unlink()  # it knows the checkpoint's hash
    with pytest.raises(UserError, match=f"init_from: {tmp_path}: .*linear_1.weight has numbers that are not finite"):
        InstructionTuning(tiny_model, RATES, init_from=str(tmp_path)).configure_model()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_bad_number_is_found_in_any_float_tensor(dtype: torch.dtype, value: float) -> None:
    bad = torch.ones(3, 4, dtype=dtype)
    bad[1, 2] = value
    tensors = {
        "good": torch.full((2,), 6e4, dtype=dtype),
        "bad": bad,
        "empty": torch.ones(0),
        "whole": torch.ones(2).long(),
    }
    assert non_finite(tensors) == ["bad"]
    with pytest.raises(UserError, match="here: bad has numbers that are not finite"):
        check_weights(tensors, "here")
