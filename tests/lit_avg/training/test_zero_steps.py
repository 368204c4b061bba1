"""Under every strategy a step is the same: which micro-batches it has, what it averages over, how it is clipped."""

import json
import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_avg.batch import Batch
from lit_avg.evaluation.evaluate import answer_questions
from lit_avg.llava_next import answer_logprobs
from lit_avg.stages import InstructionTuning
from lit_avg.training.optim import Optimization
from lit_avg.utils.errors import UserError
from tests.cpu_strategies import DeepSpeedOnCpu
from tests.tiny import make_batch, tiny_model
from tests.two_ranks import STRATEGIES, on_ranks

IMAGES = [((1, 2), (32, 64))]
BATCHES = [make_batch([([(4, 2 + 3 * n)], 0 if n % 3 else -1)], IMAGES if n % 3 else [], seed=n) for n in range(6)]
"""Of an epoch: six questions with 2 to 17 answer tokens, two of them without an image."""

KINDS = (*STRATEGIES, "zero1")


class Norms(L.Callback):
    """The gradient's norm, step by step."""

    def __init__(self) -> None:
        self.found, self.step = list[float](), 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int
    ) -> None:
        if trainer.global_step > self.step:
            self.found.append(float(trainer.callback_metrics["train/gradient_norm"]))
        self.step = trainer.global_step


class SpoiltGradient(L.Callback):
    """The second rank's gradient is no number from the connector on, while its loss is one."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        def spoil(module: nn.Module, arguments: tuple[Tensor], output: Tensor) -> None:
            if output.requires_grad:
                output.register_hook(lambda gradient: gradient * math.nan)

        if trainer.global_rank == 1:
            assert isinstance(pl_module, InstructionTuning)
            pl_module.model.backbone.hf.model.multi_modal_projector.register_forward_hook(spoil)


def train(strategy: Strategy | str, ranks: int, folder: Path, *callbacks: L.Callback, **options: Any) -> list[float]:
    """Two epochs: of four micro-batches a step, and of the two that are left over."""
    L.seed_everything(0)
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    module, norms = InstructionTuning(tiny_model, Optimization(lr=1e-2)), Norms()
    trainer = L.Trainer(
        default_root_dir=folder,
        max_epochs=2,
        accumulate_grad_batches=4 // ranks,
        gradient_clip_val=0.5,
        accelerator="cpu",
        devices=ranks,
        strategy=strategy,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[norms, *callbacks],
        **options,
    )
    trainer.fit(module, DataLoader(BATCHES[rank::ranks], batch_size=None))
    assert trainer.global_step == len(norms.found) == 4
    return norms.found


def on_a_rank(folder: str) -> None:
    """The answers of a rank take the LM head up to five times four tokens, those of the other less."""
    answer_logprobs.CHUNK = 4
    place = Path(folder)
    alone = json.loads((place / "alone.json").read_text())
    for name in KINDS:

        def made(name: str = name) -> Strategy:
            return DeepSpeedOnCpu(stage=1) if name == "zero1" else STRATEGIES[name]()

        found = train(made(), 2, place)
        assert found == pytest.approx(alone, rel=1e-5), (name, found, alone)
        rounded = train(made(), 2, place, precision="bf16-mixed")
        assert rounded == pytest.approx(alone, rel=0.25), (name, rounded, alone)
        with pytest.raises(UserError, match=r"training stopped at step 1: .* is not finite"):
            train(made(), 2, place, SpoiltGradient())


@pytest.mark.slow
@pytest.mark.usefixtures("deepspeed_operators")
def test_steps_are_those_of_one_process_also_where_an_epoch_ends_in_the_midst_of_one(tmp_path: Path) -> None:
    (tmp_path / "alone.json").write_text(json.dumps(train("auto", 1, tmp_path)))
    assert on_ranks(2, tmp_path / "marks", on_a_rank, str(tmp_path), seconds=400) == [0, 0]


QUESTIONS = [[([(4, 2)], 0)], [([(9, 2), (3, 2)], 0), ([(6, 1)], -1)], [([(3, 2)], -1)], [([(5, 2)], 0)]]
"""Of four batches: one question or three, with an image or without."""


def answers(strategy: Strategy | str, ranks: int, folder: Path) -> list[list[int]]:
    """Token ids of all answers to this rank's batches."""
    L.seed_everything(0)
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    batches = [make_batch(rows, IMAGES if rows[0][1] == 0 else [], seed=n) for n, rows in enumerate(QUESTIONS)]
    module = InstructionTuning(tiny_model, Optimization(lr=1e-2))
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet["use_distributed_sampler"] = False
    trainer = L.Trainer(default_root_dir=folder, accelerator="cpu", devices=ranks, strategy=strategy, **quiet)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lit_avg.stages.base.answer_questions", partial(answer_questions, max_new_tokens=6))
        found = trainer.predict(module, DataLoader(batches[rank::ranks], batch_size=None))
    assert found is not None
    return [one.answer.tolist() for batch in found for one in batch]  # pyright: ignore


def answers_on_a_rank(folder: str) -> None:
    alone = json.loads((Path(folder) / "alone.json").read_text())
    rank = int(os.environ["LOCAL_RANK"])
    own = [alone[0], alone[4]] if rank == 0 else [*alone[1:4], alone[5]]
    for name in ("zero3", "fsdp2"):
        found = answers(STRATEGIES[name](), 2, Path(folder))
        short = [min(len(one), len(other)) for one, other in zip(found, own, strict=True)]
        assert [one[:n] for one, n in zip(found, short, strict=True)] == [
            one[:n] for one, n in zip(own, short, strict=True)
        ]


@pytest.mark.slow
@pytest.mark.usefixtures("deepspeed_operators")
def test_ranks_that_share_the_weights_answer_other_questions_each(tmp_path: Path) -> None:
    found = answers("auto", 1, tmp_path)
    assert len(found) == 6
    (tmp_path / "alone.json").write_text(json.dumps(found))
    assert on_ranks(2, tmp_path / "marks", answers_on_a_rank, str(tmp_path), seconds=300) == [0, 0]
