"""A run that is killed, wherever it stands, goes on as if nothing had happened: every loss is equal to the last bit."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.drawn import drawn_shards
from tests.tiny import TILE
from tests.tiny_run import MODEL, write_yaml

ROOT = Path(__file__).parents[1]
SAMPLES, BATCH, STEPS = 13, 3, 28
EPOCH = SAMPLES // BATCH

Moment = Callable[[Path], bool]
"""Whether the time has come, judged from the folder of the run."""


def write_config(folder: Path, shards: Path, **trainer: object) -> str:
    """Stage 4 with dropout in its router, two workers, a checkpoint every third step."""
    model: dict[str, Any] = {**MODEL, "init_args": {**MODEL["init_args"]}}
    backbone = model["init_args"]["backbone"]["init_args"]
    backbone = {**backbone, "llm": {**backbone["llm"], "vocab_size": 512}}
    model["init_args"] |= {"backbone": {"class_path": "lit_avg.backbone.Backbone", "init_args": backbone}}
    router = {"instruction_tokens": 4, "heads": 2, "dropout": 0.3}
    model["init_args"] |= {"router": {"class_path": "lit_avg.router.GranularityRouter", "init_args": router}}
    write_yaml(folder / "model.yaml", model)
    data = {"train": str(shards), "tokenizer": "jersey", "batch_size": BATCH, "tile_size": TILE, "workers": 2}
    data |= {"grid_pinpoints": [[32, 64], [64, 32]], "system_prompt": None}
    callbacks = [{"class_path": "tests.tiny_run.LossTable"}]
    callbacks += [{"class_path": "callbacks.LastCheckpoint", "init_args": {"every_steps": 3}}]
    settings = {"max_steps": STEPS, "accelerator": "cpu", "logger": False, "callbacks": callbacks, **trainer}
    content = {
        "run_root": str(folder),
        "trainer": {"default_root_dir": "${run_root}/run", **settings},
        "model": {
            "class_path": "lit_avg.stages.RGLF",
            "init_args": {"model": "model.yaml", "optimization": {"lr": 0.01}},
        },
        "data": {"class_path": "datamodules.llava_shards.LLaVAShards", "init_args": data},
    }
    return write_yaml(folder / "config.yaml", content)


def start(config: str, run: Path) -> subprocess.Popen[bytes]:
    """`lit-avg fit --resume auto` in a process group of its own, with a temporary folder of its own."""
    command = [sys.executable, "-m", "lit_avg.cli", "fit", "--config", config, "--resume", "auto"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": (run.parent / "temporary").read_text()}
    log = (run.parent / "log.txt").open("ab")
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)


def kill_when(moment: Moment, config: str, run: Path) -> None:
    process = start(config, run)
    while not moment(run):
        assert process.poll() is None, (run.parent / "log.txt").read_text()
        time.sleep(0.0005)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL


def finish(config: str, run: Path) -> None:
    process = start(config, run)
    assert process.wait(timeout=120) == 0, (run.parent / "log.txt").read_text()


def lines(run: Path, rank: int = 0) -> list[str]:
    path = run / f"losses-{rank}.csv"
    return path.read_text().splitlines() if path.exists() else []


def by_step(run: Path, rank: int = 0) -> dict[int, set[str]]:
    """What each step gave; more than one thing if a step was done over and came out differently."""
    seen: defaultdict[int, set[str]] = defaultdict(set)
    for line in lines(run, rank):
        step, _, what = line.partition(",")
        seen[int(step)].add(what)
    return seen


def reached(step: int) -> Moment:
    return lambda run: any(line.startswith(f"{step},") for line in lines(run))


def within_the_step_after(step: int, seconds: float) -> Moment:
    def come(run: Path) -> bool:
        if not reached(step)(run):
            return False
        time.sleep(seconds)
        return True

    return come


def writing_a_checkpoint_after(step: int) -> Moment:
    def come(run: Path) -> bool:
        temporary = Path((run.parent / "temporary").read_text())
        return reached(step)(run) and any(path.is_file() for path in temporary.glob("tmp*"))

    return come


@pytest.fixture
def temporary() -> Iterator[str]:
    """A folder with a name short enough for the sockets of data loaders."""
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as folder:
        yield folder


@pytest.mark.slow
def test_a_run_killed_five_times_has_the_losses_of_an_undisturbed_one(tmp_path: Path, temporary: str) -> None:
    shards = drawn_shards(tmp_path, SAMPLES)
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "temporary").write_text(temporary)
    configs = {name: write_config(tmp_path / name, shards) for name in ("whole", "killed")}
    runs = {name: tmp_path / name / "run" for name in configs}
    finish(configs["whole"], runs["whole"])
    chance = random.Random(0)
    moments = [
        within_the_step_after(chance.randint(1, 4), chance.uniform(0, 0.1)),
        writing_a_checkpoint_after(5),
        reached(3 * EPOCH),  # the next epoch has not begun
        within_the_step_after(chance.randint(14, 17), chance.uniform(0, 0.1)),
        writing_a_checkpoint_after(chance.randint(18, 24)),
    ]
    for moment in moments:
        kill_when(moment, configs["killed"], runs["killed"])
    finish(configs["killed"], runs["killed"])
    whole, killed = (by_step(run) for run in runs.values())
    assert sorted(whole) == list(range(1, STEPS + 1))
    assert len(set().union(*whole.values())) == STEPS, "equal losses would say nothing"
    assert killed == whole
    weights = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in runs.values()]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
