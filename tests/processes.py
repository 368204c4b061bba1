"""`lit-avg fit` in processes of its own: started, killed at a moment, continued, and what each rank was shown."""

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.tiny import TILE
from tests.tiny_run import MODEL, write_yaml

ROOT = Path(__file__).parents[1]

Moment = Callable[[Path], bool]
"""Whether the time has come, judged from the folder of the run."""


def write_config(
    folder: Path, stage: str, data: dict[str, object], steps: int, vocabulary: int = 512, **trainer: object
) -> str:
    """A stage with dropout in its router, and a checkpoint every third step; gives the config's name."""
    model: dict[str, Any] = {**MODEL, "init_args": {**MODEL["init_args"]}}
    backbone = model["init_args"]["backbone"]["init_args"]
    backbone = {**backbone, "llm": {**backbone["llm"], "vocab_size": vocabulary}}
    model["init_args"] |= {"backbone": {"class_path": "lit_avg.backbone.Backbone", "init_args": backbone}}
    router = {"instruction_tokens": 4, "heads": 2, "dropout": 0.3}
    model["init_args"] |= {"router": {"class_path": "lit_avg.router.GranularityRouter", "init_args": router}}
    write_yaml(folder / "model.yaml", model)
    callbacks = [{"class_path": "tests.tiny_run.LossTable"}]
    callbacks += [{"class_path": "callbacks.LastCheckpoint", "init_args": {"every_steps": 3}}]
    settings = {"max_steps": steps, "accelerator": "cpu", "logger": False, "callbacks": callbacks, **trainer}
    arguments = {"model": "model.yaml", "optimization": {"lr": 0.01}}
    content = {
        "run_root": str(folder),
        "trainer": {"default_root_dir": "${run_root}/run", **settings},
        "model": {"class_path": f"lit_avg.stages.{stage}", "init_args": arguments},
        "data": data,
    }
    return write_yaml(folder / "config.yaml", content)


def drawn_data(shards: Path, batch_size: int, workers: int) -> dict[str, object]:
    """Shards of `tests.drawn`, tiled for the tiny model."""
    arguments = {"train": str(shards), "tokenizer": "jersey", "batch_size": batch_size, "workers": workers}
    arguments |= {"tile_size": TILE, "grid_pinpoints": [[32, 64], [64, 32]], "system_prompt": None}
    return {"class_path": "datamodules.llava_shards.LLaVAShards", "init_args": arguments}


def start(config: str, temporary: Path) -> subprocess.Popen[bytes]:
    """`lit-avg fit --resume auto` in a process group of its own, with a temporary folder of its own."""
    command = [sys.executable, "-m", "lit_avg.cli", "fit", "--config", config, "--resume", "auto"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
    with log_of(config).open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)


def kill_when(moment: Moment, config: str, temporary: Path) -> None:
    """Start, and kill all its processes at that moment."""
    process = start(config, temporary)
    while not moment(run_of(config)):
        assert process.poll() is None, log_of(config).read_text()
        time.sleep(0.0005)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL


def finish(config: str, temporary: Path, seconds: float = 180) -> None:
    """Start, and see it end well; what hangs is killed."""
    process = start(config, temporary)
    try:
        assert process.wait(timeout=seconds) == 0, log_of(config).read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def run_of(config: str) -> Path:
    return Path(config).parent / "run"


def log_of(config: str) -> Path:
    return Path(config).parent / "log.txt"


def losses(run: Path, rank: int = 0) -> list[tuple[int, str]]:
    """Step by step, in the order of time: the step, and its loss and keys."""
    path = run / f"losses-{rank}.csv"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(step), what) for step, _, what in (line.partition(",") for line in lines)]


def by_step(run: Path, rank: int = 0) -> dict[int, set[str]]:
    """What each step gave; more than one thing if a step was done over and came out differently."""
    seen: defaultdict[int, set[str]] = defaultdict(set)
    for step, what in losses(run, rank):
        seen[step].add(what)
    return seen


def reached(step: int) -> Moment:
    return lambda run: any(found == step for found, _ in losses(run))
