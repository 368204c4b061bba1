"""Lives of a run on two ranks, under a strategy that may shard: each rank is a process that forks for every life."""

import json
import multiprocessing
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L

from lit_avg.batch import Batch
from tests.continuation import SECONDS, Life, lives_of
from tests.killing import PRELOADED

DEEPSPEED = "tests.cpu_strategies.DeepSpeedOnCpu"
STRATEGIES: dict[str, object] = {
    "zero2": {"class_path": DEEPSPEED, "init_args": {"stage": 2, "logging_batch_size_per_gpu": 2}},
    "zero3": {"class_path": DEEPSPEED, "init_args": {"stage": 3, "logging_batch_size_per_gpu": 2}},
    "fsdp2": {
        "class_path": "lightning.pytorch.strategies.ModelParallelStrategy",
        "init_args": {"data_parallel_size": 2, "tensor_parallel_size": 1},
    },
    "ddp": "ddp",
}


def strategy(name: str, ranks: int = 2) -> list[str]:
    """Options of `lit-avg fit`."""
    named = STRATEGIES[name]
    text = named if isinstance(named, str) else json.dumps(named)
    return ["--trainer.strategy", text, "--trainer.devices", str(ranks), "--data.init_args.batch_size", "2"]


def live_on_two(runs: Sequence[tuple[Path, str, Sequence[str], Sequence[Life]]]) -> list[list[list[int]]]:
    """Run one life of one run after the other on two ranks; how each ended, by rank, run and life.

    Args:
        runs: of each its folder, config, options and lives.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, "tests.sharded_lives", "tests.drawn", "deepspeed"])
    ports = [_free_port() for _, _, _, lives in runs for _ in lives]
    pipes, processes = list[Any](), list[Any]()
    for rank in range(2):
        ends, ours = context.Pipe(duplex=False)
        processes.append(context.Process(target=_on_rank, args=(ours, rank, ports, runs)))
        processes[-1].start()
        ours.close()
        pipes.append(ends)
    for ends in pipes:
        if not ends.poll(SECONDS):
            for process in processes:
                process.kill()
            raise TimeoutError(f"{runs[0][0]} did not end")
    return [ends.recv() for ends in pipes]


def _on_rank(ends: Any, rank: int, ports: list[int], runs: Sequence[tuple[Path, str, list[str], list[Life]]]) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "NODE_RANK": "0", "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    statuses, left = list[list[int]](), iter(ports)
    for folder, config, options, lives in runs:
        statuses.append(lives_of(folder, config, options, lives, left))
    ends.send(statuses)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class MakeRoom(L.Callback):
    """The cluster wants its node back in the midst of a step; only the first process is told, and has an owner of the
    signal that leaves it alone.

    Args:
        step: how many optimiser steps are done then.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        signal.signal(signal.SIGUSR2, lambda number, frame: None)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step and trainer.is_global_zero:
            os.kill(os.getpid(), signal.SIGUSR2)
