"""Stage 3 with an adapter of the LLM on some ranks, each on a sample of its own, under one strategy after the other."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch.utils.data import DataLoader

from lit_avg.batch import Batch
from lit_avg.llava_next.lora import LoRA
from lit_avg.model import AvgLlava
from lit_avg.routing.router import GranularityRouter
from lit_avg.stages import MultiGranularityTuning
from lit_avg.training.optim import Optimization
from lit_avg.visual_tokens.granularity import Granularities
from tests.cpu_strategies import DeepSpeedOnCpu
from tests.tiny import LEVELS, make_batch, tiny_backbone

STEPS, RANKS = 6, 2


class Losses(L.Callback):
    """The loss of each micro-batch of one rank."""

    def __init__(self) -> None:
        self.found = list[float]()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(outputs, dict)
        self.found.append(float(outputs["mean_loss"]))


def adapted_model() -> AvgLlava:
    def router(*arguments: Any) -> GranularityRouter:
        return GranularityRouter(*arguments, instruction_tokens=4, heads=2, dropout=0.0)

    return AvgLlava(lambda: tiny_backbone(lora=LoRA(rank=4, alpha=8)), Granularities(LEVELS), router, k=4)


def batches(rank: int) -> list[Batch]:
    """The same sample again and again; every rank's has as many answer tokens, so that means of means are means."""
    return [make_batch([([(4, 2)], 0)], [((1, 2), (32, 64))], seed=rank) for _ in range(STEPS)]


def train(
    strategy: str | Strategy, folder: str, mine: Sequence[Batch], devices: int, accumulate: int = 1
) -> list[float]:
    """The losses of this rank's micro-batches."""
    L.seed_everything(0, verbose=False)
    losses = Losses()
    optimization = Optimization(lr=0.01, loss_normalisation="micro_batch")
    stage = MultiGranularityTuning(adapted_model, optimization, frozen=["vision_encoder"])
    L.Trainer(
        default_root_dir=folder,
        max_steps=STEPS,
        accelerator="cpu",
        devices=devices,
        strategy=strategy,
        accumulate_grad_batches=accumulate,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        callbacks=[losses],
    ).fit(stage, DataLoader(list(mine), batch_size=None))
    return losses.found


def each_strategy(folder: str) -> None:
    """On one of the ranks: leaves its losses under each strategy."""
    rank = int(os.environ["LOCAL_RANK"])
    strategies = {
        "ddp": "ddp",
        "zero2": DeepSpeedOnCpu(stage=2, logging_batch_size_per_gpu=1),
    }
    found = {name: train(strategy, folder, batches(rank), RANKS) for name, strategy in strategies.items()}
    (Path(folder) / f"losses{rank}.json").write_text(json.dumps(found))
