"""The gradient of a step is that of its samples, however they are dealt to micro-batches and ranks."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks import LossRecord
from lit_avg.batch import Batch
from lit_avg.feedback.lmm_feedback import split_by_sample
from lit_avg.llava_next.llm_input import llm_input, separate_questions
from lit_avg.stages import RGLF, GumbelRouterTuning, InstructionTuning, MultiGranularityTuning, Pretrain
from lit_avg.stages.base import Stage
from lit_avg.training.optim import Optimization
from tests.tiny import make_batch, tiny_model
from tests.two_ranks import on_ranks

# one question with 2 answer tokens, and three with 6, 5 and 7: 1 of 4 questions, 2 of 20 answer tokens
JOINT = make_batch([([(4, 2)], 0), ([(3, 6), (5, 5), (6, 7)], 1)], [((1, 2), (32, 64)), ((2, 1), (60, 20))])
SHORT, LONG = (sample.batch for sample in split_by_sample(JOINT))

STAGES: dict[str, Callable[..., Stage]] = {
    "Pretrain": Pretrain,
    "InstructionTuning": InstructionTuning,
    "MultiGranularityTuning": MultiGranularityTuning,
    "MultiGranularityTuning, all at once": partial(MultiGranularityTuning, sequential_backward=False),
    "RGLF": RGLF,
}


class Gradients(L.Callback):
    """Keeps the gradients of the last step."""

    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int
    ) -> None:
        grads = {name: one.grad for name, one in pl_module.named_parameters()}
        self.found = {name: grad.clone() for name, grad in grads.items() if grad is not None}


def gradients(
    folder: Path,
    stage: str,
    batches: Sequence[Batch],
    accumulate: int,
    normalisation: str | None = None,
    ranks: int = 1,
) -> dict[str, Tensor]:
    """Of one step, as the optimiser gets them."""
    module = STAGES[stage](tiny_model, Optimization(lr=1e-9, loss_normalisation=normalisation))  # pyright: ignore[reportArgumentType]
    callback = Gradients()
    trainer = L.Trainer(
        default_root_dir=folder,
        max_steps=1,
        accumulate_grad_batches=accumulate,
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback, LossRecord()],
    )
    trainer.fit(module, DataLoader(list(batches), batch_size=None))
    return callback.found


def on_one_rank_each(stage: str, folder: str) -> None:
    """The short sample on the first rank, the long ones on the second."""
    import os

    rank = int(os.environ["LOCAL_RANK"])
    torch.save(gradients(Path(folder), stage, [(SHORT, LONG)[rank]], 1, ranks=2), Path(folder) / f"grads{rank}.pt")


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert set(first) == set(second)
    for name, grad in first.items():
        torch.testing.assert_close(
            grad, second[name], rtol=1e-3, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


def weighted(short: dict[str, Tensor], long: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    return {name: share * grad + (1 - share) * long[name] for name, grad in short.items()}


@pytest.mark.parametrize("stage", STAGES)
def test_two_samples_have_one_gradient_in_a_batch_or_accumulated(tmp_path: Path, stage: str) -> None:
    together = gradients(tmp_path, stage, [JOINT], 1)
    accumulated = gradients(tmp_path, stage, [SHORT, LONG], 2)
    assert_equal(together, accumulated)
    short, long = (gradients(tmp_path, stage, [one], 1) for one in (SHORT, LONG))
    share = 1 / 4 if stage == "RGLF" else 2 / 20
    assert_equal(accumulated, weighted(short, long, share))
    assert_equal(gradients(tmp_path, stage, [SHORT, LONG], 2, "micro_batch"), weighted(short, long, 1 / 2))


def test_what_is_left_over_at_an_epochs_end_weighs_as_a_step_of_its_own(tmp_path: Path) -> None:
    alone = gradients(tmp_path, "InstructionTuning", [LONG], 1)
    assert_equal(gradients(tmp_path, "InstructionTuning", [LONG], 4), alone)  # not a quarter of it


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["InstructionTuning", "MultiGranularityTuning", "RGLF"])
def test_two_ranks_have_the_gradient_of_one_with_both_samples(tmp_path: Path, stage: str) -> None:
    assert on_ranks(2, tmp_path / "marks", on_one_rank_each, stage, str(tmp_path)) == [0, 0]
    first, second = (torch.load(tmp_path / f"grads{rank}.pt", weights_only=True) for rank in range(2))
    assert_equal(first, second)
    assert_equal(first, gradients(tmp_path / "one", stage, [JOINT], 1))


def test_the_recorded_losses_are_those_of_the_batches_themselves(tmp_path: Path) -> None:
    for name, accumulate in (("each", 1), ("both", 2)):
        gradients(tmp_path / name, "InstructionTuning", [LONG, LONG], accumulate)
    each, both = (
        [line.split(",")[2] for line in (tmp_path / name / "losses.csv").read_text().splitlines()[1:]]
        for name in ("each", "both")
    )
    assert both == each * 2


@pytest.mark.parametrize("kind", [InstructionTuning, MultiGranularityTuning, GumbelRouterTuning])
def test_a_stage_counts_the_answer_tokens_that_its_loss_is_the_mean_of(kind: type[Stage]) -> None:
    stage = kind(tiny_model, Optimization(lr=1e-3))
    stage.configure_model()
    for batch in (JOINT, separate_questions(JOINT)):
        rows = llm_input(batch, [0] * len(batch.input_ids), stage.model.layout)
        assert stage.terms(batch) == len(rows.answer_token) == 2 + 6 + 5 + 7
