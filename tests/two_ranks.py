"""Two processes that train together over gloo, each with a mark of its own that it came to the end."""

import math
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch.utils.data import DataLoader

from lit_avg.batch import Batch
from lit_avg.cli import main
from lit_avg.stages.base import Stage
from lit_avg.stages.trained_parts import Part
from lit_avg.training.optim import Optimization
from lit_avg.utils.errors import UserError
from tests.cpu_strategies import DeepSpeedOnCpu
from tests.killing import PRELOADED
from tests.tiny import make_batch, tiny_model

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "ddp": DDPStrategy,
    "zero2": partial(DeepSpeedOnCpu, stage=2),
    "zero3": partial(DeepSpeedOnCpu, stage=3),
    "fsdp2": ModelParallelStrategy,
}

SECONDS = 120
"""What hangs is ended after so long; what does not is done in a few."""


class Keys(L.Callback):
    """Writes the keys that each rank is shown at each step, once a step is done."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int
    ) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"rank{trainer.global_rank}").open("a") as file:
            file.write(f"{trainer.global_step} {' '.join(batch.keys)}\n")


class Losses(L.Callback):
    """Writes of each step what a rank's own loss is and how many terms it is the mean of."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(outputs, Mapping)
        assert isinstance(pl_module, Stage)
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"rank{trainer.global_rank}").open("a") as file:
            file.write(f"{float(outputs['mean_loss'])!r} {int(pl_module.terms(batch))}\n")


def losses_of_steps(folder: Path) -> list[float]:
    """The mean of each step over the terms of all ranks that wrote into a folder."""
    ranks = [[line.split() for line in path.read_text().splitlines()] for path in sorted(folder.iterdir())]
    steps = [[(float(loss), int(terms)) for loss, terms in step] for step in zip(*ranks, strict=True)]
    return [sum(loss * terms for loss, terms in step) / sum(terms for _, terms in step) for step in steps]


def keys_by_step(folder: Path, rank: int) -> dict[int, list[str]]:
    """What a rank was shown at each step; of a step that was done again after a kill, the last time."""
    lines = [line.split() for line in (folder / f"rank{rank}").read_text().splitlines()]
    return {int(step): keys for step, *keys in lines}


def on_ranks(
    ranks: int, marks: Path, target: Callable[..., None], *arguments: object, seconds: float = SECONDS
) -> list[int]:
    """Run `target(*arguments)` on so many ranks; tells the exit status of each, and ends what hangs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    marks.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        context.Process(target=_rank, args=(rank, ranks, port, marks, target, arguments)) for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    end = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
    for process in processes:
        process.kill()
        process.join()
    return [process.exitcode or 0 for process in processes]


def _rank(
    rank: int, ranks: int, port: int, marks: Path, target: Callable[..., None], arguments: tuple[object, ...]
) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    torch.set_num_threads(1)  # of several processes with a thread for each core, all wait for one another
    target(*arguments)
    (marks / f"rank{rank}").touch()


def fit(argv: list[str]) -> None:
    """`lit-avg fit` on one of the ranks."""
    status = main(["fit", *argv])
    if status:
        raise SystemExit(status)


def one_rank_without_images(stage: str, frozen: list[Part], folder: str) -> None:
    """Three steps in which the first rank has images and the second has none, and the other way round."""
    import lit_avg.stages

    with_images = make_batch([([(4, 2)], 0), ([(5, 2)], 1)], [((1, 2), (32, 64)), ((2, 1), (60, 20))])
    without = make_batch([([(3, 2)], -1), ([(2, 4)], -1)], [])
    rank = int(os.environ["LOCAL_RANK"])
    batches = [with_images, without, with_images, without][rank : rank + 3]
    module = getattr(lit_avg.stages, stage)(tiny_model, Optimization(lr=0.01), frozen=frozen)
    trainer = L.Trainer(
        default_root_dir=folder,
        max_steps=3,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))


def one_rank_meets_a_nan(stage: str, folder: str, strategy: str = "ddp") -> None:
    """Three steps on batches `<rank>-<step>-…`; the second of the second rank has pixels that are no numbers."""
    import lit_avg.stages

    rank = int(os.environ["LOCAL_RANK"])
    batches = [
        make_batch([([(4, 2), (3, 1)], 0), ([(5, 2)], 1)], [((1, 2), (32, 64)), ((2, 1), (60, 20))], n)
        for n in range(3)
    ]
    named = [
        replace(batch, keys=[f"{rank}-{step}-{question}" for question in range(3)])
        for step, batch in enumerate(batches)
    ]
    if rank == 1:
        named[1].pixel_values[0, 0, 0, 0] = math.nan
    module = getattr(lit_avg.stages, stage)(tiny_model, Optimization(lr=0.01))
    trainer = L.Trainer(
        default_root_dir=folder,
        max_steps=3,
        accelerator="cpu",
        devices=2,
        strategy=STRATEGIES[strategy](),
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    try:
        trainer.fit(module, DataLoader(named, batch_size=None))
    except UserError as stopped:
        (Path(folder) / f"told{rank}").write_text(str(stopped))
