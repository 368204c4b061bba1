"""Real `lit-avg fit` processes on real shards, and ways to kill them."""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.types import STEP_OUTPUT

from lit_avg.cli import main
from tests.tiny_run import MODEL, write_yaml

PRELOADED = ["lit_avg.commands.fit", "lit_avg.stages", "callbacks", "datamodules.llava_shards", "deepspeed"]
"""What a process has imported when it is forked; each would take seconds over it."""


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Killed(L.Callback):
    """Kills its process at the n-th of a certain moment of training.

    Args:
        moment: name of the moment, as in the methods.
        count: which of those that this process lives to see.
    """

    def __init__(self, moment: str, count: int) -> None:
        self.moment, self.left = moment, count

    def _at(self, moment: str) -> None:
        self.left -= moment == self.moment
        if self.left == 0:
            kill()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._at("train start")

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Any) -> None:
        self._at("backward")

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        self._at("optimizer")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        self._at("batch end")

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._at("in validation")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._at("validation end")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._at("epoch end")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._at("train end")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._at("fit end")


class KilledAfterSaving(Killed, Checkpoint):
    """As `Killed`, but behind the callbacks that save."""


class KilledWhileSaving(L.Callback):
    """Kills its process a moment after the n-th time it touches a checkpoint's file: opens, copies or renames it."""

    def __init__(self, touch: int, seconds: float) -> None:
        self.left, self.seconds = touch, seconds

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if event not in ("open", "shutil.copyfile", "os.rename") or "last.ckpt" not in str(arguments):
            return
        self.left -= 1
        if self.left == 0 and self.seconds:
            threading.Thread(target=lambda: (time.sleep(self.seconds), kill())).start()
        elif self.left == 0:
            kill()


def write_config(folder: Path, shards: Path, steps: int, every_steps: int = 2, **trainer: object) -> str:
    """A stage that draws random numbers in each step, on a stream of shuffled and grouped samples."""
    model: dict[str, Any] = {**MODEL, "init_args": {**MODEL["init_args"]}}
    backbone = MODEL["init_args"]["backbone"]["init_args"]
    model["init_args"]["backbone"] = {
        "class_path": "lit_avg.llava_next.backbone.Backbone",
        "init_args": {**backbone, "llm": {**backbone["llm"], "vocab_size": 512}},
    }
    write_yaml(folder / "model.yaml", model)
    settings = {
        "default_root_dir": "${run_root}",
        "max_steps": steps,
        "val_check_interval": 5,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "callbacks": [
            {"class_path": "callbacks.LossRecord"},
            {"class_path": "callbacks.LastCheckpoint", "init_args": {"every_steps": every_steps}},
            {"class_path": "callbacks.Preemption"},
            {"class_path": "callbacks.ResultsWriter"},
        ],
        **trainer,
    }
    data = {"train": str(shards), "val": str(shards), "tokenizer": "jersey", "batch_size": 3, "tile_size": 32}
    data |= {"grid_pinpoints": [[32, 64], [64, 32]], "system_prompt": None, "group_by_length": True, "workers": 1}
    content = {
        "run_root": str(folder / "run"),
        "trainer": settings,
        "model": {
            "class_path": "lit_avg.stages.GumbelRouterTuning",
            "init_args": {"model": "model.yaml", "optimization": {"lr": 0.01}, "init_from": "random"},
        },
        "data": {"class_path": "datamodules.llava_shards.LLaVAShards", "init_args": data},
    }
    return write_yaml(folder / "fit.yaml", content)


def fit(config: str, run_root: Path, temporary: Path, *options: str) -> int:
    """Fit in a process of its own, and tell how it ended; minus the signal's number if by a signal."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    argv = ["fit", "--config", config, "--run_root", str(run_root), "--resume", "auto", *options]
    process = context.Process(target=_run, args=(argv, str(temporary)))
    process.start()
    process.join(timeout=180)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"lit-avg {' '.join(argv)} did not end")
    return process.exitcode


def _run(argv: list[str], temporary: str) -> None:
    tempfile.tempdir = temporary
    raise SystemExit(main(argv))
