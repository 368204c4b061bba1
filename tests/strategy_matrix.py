"""Every strategy through every stage, on two processes, held against one process: `python -m tests.strategy_matrix`.

Twenty steps of four samples a stage: on one process at once, on two as two micro-batches of one sample each. Answers
have 2 to 40 tokens, every fifth sample no image, and gradients are clipped. The loss of a step is the mean over its
terms, whoever had them; what is told is the largest relative difference of a step's loss, and of its gradient's norm,
to one process. Every stage starts from what one process has trained before it, so that nothing adds up.

What the other columns hold: the next stage starts from the run's checkpoint with the weights of one process (stage 4 is
the last), a run that is killed with -9 and continued has the losses of one that was left alone bit by bit, and the run
is exported as a folder that loads.
"""

import argparse
import json
import math
import os
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.pytorch.utilities.types import STEP_OUTPUT
from transformers.utils import logging

from datamodules.packing.pack import PackJob, pack
from datamodules.packing.roots import ImageRoot
from lit_avg import stages
from lit_avg.batch import Batch
from lit_avg.cli import main
from lit_avg.model import AvgLlava
from lit_avg.training.handover import initialise_from
from tests.drawn import COLOURS, image
from tests.tiny_run import MODEL, write_yaml
from tests.two_ranks import on_ranks

STEPS, KILLED_AT = 20, 25
"""Optimiser steps, and the micro-batch that a kill comes at: the first of the 13th step."""

STAGES = {"1": "Pretrain", "2": "InstructionTuning", "3": "MultiGranularityTuning", "4": "RGLF", "4 stored": "RGLF"}

BEFORE = {"2": "1", "3": "2", "4": "3", "4 stored": "3"}

SHIPPED = Path(__file__).parents[1] / "experiments" / "strategies"

STRATEGIES = ("ddp", "zero2", "zero3", "fsdp2", "zero3_offload")


def strategy_of(name: str) -> object:
    """As it is shipped, on CPUs: only DeepSpeed's has to be another class for that."""
    if name == "one":
        return "auto"
    strategy = yaml.safe_load((SHIPPED / f"{name}.yaml").read_text())["trainer"]["strategy"]
    if strategy["class_path"].endswith("DeepSpeedStrategy"):
        strategy["class_path"] = "tests.cpu_strategies.DeepSpeedOnCpu"
    return strategy


class StepLosses(L.Callback):
    """Writes each micro-batch's loss and number of terms, and each step's gradient norm, into a file of each rank."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(outputs, Mapping)
        assert isinstance(pl_module, stages.base.Stage)
        norm = float(trainer.callback_metrics.get("train/gradient_norm", math.nan))
        step, terms = batch_idx // trainer.accumulate_grad_batches, int(pl_module.terms(batch))
        with (Path(trainer.default_root_dir) / f"steps-{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps([step, float(outputs["mean_loss"]), terms, norm]) + "\n")


def prepare(folder: Path, precision: str = "32-true") -> None:
    """Shards, the model and a config for each stage."""
    draw_samples(folder)
    backbone = MODEL["init_args"]["backbone"]
    settings = {**backbone["init_args"], "gradient_checkpointing": True}
    settings["llm"] = {**settings["llm"], "vocab_size": 512, "initializer_range": 0.1}
    model = {**MODEL, "init_args": {**MODEL["init_args"], "backbone": {**backbone, "init_args": settings}}}
    write_yaml(folder / "model.yaml", model)
    data = {"train": str(folder / "shards"), "val_share": 0.1, "tokenizer": "jersey", "tile_size": 32, "workers": 0}
    data |= {"grid_pinpoints": [[32, 64], [64, 32]], "system_prompt": None, "batch_size": 4, "max_length": 512}
    for number, stage in STAGES.items():
        start = {"init_from": str(folder / "one" / BEFORE[number])} if number in BEFORE else {}
        stored = {"feedback": str(folder / "feedback")} if number == "4 stored" else {}
        arguments = {"model": "model.yaml", "optimization": {"lr": 3e-3}, **start, **stored}
        trainer = {"default_root_dir": f"${{run_root}}/{number}", "max_steps": STEPS, "accelerator": "cpu"}
        trainer |= {"precision": precision, "gradient_clip_val": 0.3, "limit_val_batches": 1, "logger": False}
        content = {
            "run_root": str(folder / "one"),
            "trainer": trainer,
            "model": {"class_path": f"lit_avg.stages.{stage}", "init_args": arguments},
            "data": {"class_path": "datamodules.llava_shards.LLaVAShards", "init_args": data},
        }
        write_yaml(folder / f"stage{number}.yaml", content)


def draw_samples(folder: Path, samples: int = 4 * STEPS + 12) -> None:
    """Shards of questions with answers of unlike length, some without an image."""
    raw = folder / "raw"
    raw.mkdir(parents=True)
    records: list[dict[str, Any]] = []
    for number in range(samples):
        colour = None if number % 5 == 4 else list(COLOURS)[number % 3]
        answer = " ".join([colour or "none", *(str(word) for word in range(number * 7 % 13))])
        turns = [{"from": "human", "value": f"{'<image>' * bool(colour)}\nColour {number}?"}]
        turns.append({"from": "gpt", "value": answer})
        records.append({"id": f"s{number:03d}", "conversations": turns})
        if colour:
            size = (40 + 13 * (number % 5), 90 - 17 * (number % 4))
            (raw / f"{number}.png").write_bytes(image(*size, colour, number))
            records[-1]["image"] = f"{number}.png"
    (raw / "records.json").write_text(json.dumps(records))
    pack(PackJob((raw / "records.json",), (ImageRoot(raw),), shard_bytes=40_000), folder / "shards")


def fit(folder: str, strategy: str, number: str, run_root: str, kill_at: int | None = None) -> None:
    """One stage on this rank, from where it is."""
    alone, own = strategy == "one", os.environ.get("LOCAL_RANK", "0")
    callbacks: list[object] = [{"class_path": "tests.strategy_matrix.StepLosses"}]
    if kill_at is not None:
        killed = {"class_path": "tests.killing.Killed", "init_args": {"moment": "backward", "count": kill_at}}
        callbacks.append(killed)
    saving = {"class_path": "callbacks.LastCheckpoint", "init_args": {"every_steps": 4}}
    names = ("RunProgress", "LossRecord", "Preemption", "ResultsWriter")
    base = [{"class_path": f"callbacks.{name}"} for name in names]
    trainer = {"strategy": strategy_of(strategy), "devices": 1 if alone else 2}
    trainer |= {"accumulate_grad_batches": 1 if alone else 2, "callbacks": [*base[:2], saving, *base[2:], *callbacks]}
    overlay = write_yaml(Path(folder) / f"{strategy}-{number}-{own}.yaml", {"trainer": trainer})
    command = ["--config", f"{folder}/stage{number}.yaml", "--config", overlay, "--run_root", run_root]
    command += ["--resume", "auto", "--data.init_args.batch_size", "4" if alone else "1"]
    if main(["fit", *command]):
        raise SystemExit(f"{strategy}: stage {number}")


def fit_stages(folder: str, strategy: str, numbers: Sequence[str]) -> None:
    """Stages one after the other, in the same process, as imports take longer than steps."""
    for number in numbers:
        fit(folder, strategy, number, f"{folder}/{strategy}")


def train_alone(folder: Path) -> None:
    """What all is held against, and the store of feedback; in a process of its own."""
    assert on_ranks(1, folder / "marks-one", fit_stages, str(folder), "one", ["1", "2", "3"], seconds=900) == [0]
    command = ["feedback", "--config", str(folder / "stage4.yaml"), "--out", str(folder / "feedback")]
    assert main(command) == 0
    assert on_ranks(1, folder / "marks-one-4", fit_stages, str(folder), "one", ["4", "4 stored"], seconds=900) == [0]


def step_losses(run: Path) -> list[tuple[float, float]]:
    """Each step's loss, the mean over all its terms, and its gradient's norm."""
    sums, norms = defaultdict[int, list[float]](lambda: [0.0, 0.0]), dict[int, float]()
    for path in sorted(run.glob("steps-*.jsonl")):
        for line in path.read_text().splitlines():
            step, loss, terms, norm = json.loads(line)
            sums[step][0] += loss * terms
            sums[step][1] += terms
            norms[step] = norm
    return [(total / max(terms, 1), norms[step]) for step, (total, terms) in sorted(sums.items())]


def differences(folder: Path, strategy: str, number: str) -> tuple[float, float]:
    """The largest of losses and of norms to one process, relative."""
    one, other = (step_losses(folder / name / number) for name in ("one", strategy))
    assert len(one) == len(other) == STEPS, (len(one), len(other))
    losses, norms = (max(abs(b[kind] / a[kind] - 1) for a, b in zip(one, other, strict=True)) for kind in range(2))
    return losses, norms


def handed_over(folder: Path, strategy: str, number: str) -> float | None:
    """How far the weights that the next stage starts from are from those of one process, relative to their size."""
    after = next((stage for stage, before in BEFORE.items() if before == number), None)
    if after is None:
        return None
    kind, started = getattr(stages, STAGES[after]), list[torch.Tensor]()
    for name in ("one", strategy):
        model = make_model(folder)
        initialise_from(model, str(folder / name / number), kind.starts_from)
        started.append(torch.cat([p.detach().flatten() for p in model.backbone.parameters()]))
    return float((started[0] - started[1]).norm() / started[0].norm())


def make_model(folder: Path) -> AvgLlava:
    """With the random weights that every run of the folder begins with."""
    from lit_avg.commands.offline import BuildingCLI

    stage = BuildingCLI(["fit", "--config", str(folder / "stage1.yaml")]).stage
    torch.manual_seed(0)
    return stage.make_model()


def resumed(folder: Path, strategy: str, number: str) -> bool:
    """Whether a killed and continued run has the losses of one that was left alone, bit by bit."""
    root = f"{folder}/{strategy}-killed"
    marks = folder / f"marks-{strategy}-{number}"
    killed = on_ranks(2, Path(f"{marks}-killed"), fit, str(folder), strategy, number, root, KILLED_AT, seconds=300)
    assert killed == [-signal.SIGKILL] * 2, killed
    assert on_ranks(2, Path(f"{marks}-resumed"), fit, str(folder), strategy, number, root, seconds=300) == [0, 0]
    whole, again = ((Path(f"{folder}/{name}") / number / "losses.csv") for name in (strategy, f"{strategy}-killed"))
    return whole.read_text() == again.read_text()


def exported(folder: Path, strategy: str, number: str) -> bool:
    """Whether a run's folder loads."""
    out = folder / f"{strategy}-{number}-exported"
    assert main(["export", "--ckpt", str(folder / strategy / number), "--out", str(out)]) == 0
    return len(AvgLlava.from_pretrained(str(out)).granularities) == 5


@dataclass
class Row:
    """What one stage under one strategy comes to, in words."""

    strategy: str
    stage: str
    loss: str
    norm: str
    handed_over: str
    resumed: str
    exported: str

    HEADINGS = ("strategy", "stage", "losses", "norms", "handed over", "resumed", "exported")

    def cells(self) -> list[str]:
        return [self.strategy, self.stage, self.loss, self.norm, self.handed_over, self.resumed, self.exported]


def matrix(folder: Path, strategies: Sequence[str], numbers: Sequence[str]) -> list[Row]:
    """All rows; whatever fails is a cell that says so."""
    rows = list[Row]()
    for strategy in strategies:
        status = on_ranks(2, folder / f"marks-{strategy}", fit_stages, str(folder), strategy, numbers, seconds=900)
        print(f"{strategy}: {status}", file=sys.stderr, flush=True)
        for number in numbers:
            found = [cell(differences, folder, strategy, number)]
            loss, norm = found[0] if isinstance(found[0], tuple) else (found[0], found[0])
            row = [cell(ask, folder, strategy, number) for ask in (handed_over, resumed, exported)]
            rows.append(Row(strategy, number, told(loss), told(norm), *(told(value) for value in row)))
            print(" | ".join(rows[-1].cells()), file=sys.stderr, flush=True)
    return rows


def cell(ask: Any, folder: Path, strategy: str, number: str) -> Any:
    try:
        return ask(folder, strategy, number)
    except BaseException as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def told(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.1e}" if isinstance(value, float) else "last" if value is None else str(value)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.strategy_matrix", description=__doc__)
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, choices=STRATEGIES)
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--folder", type=Path, default=None, help="where the runs go, and what is there is taken up")
    asked = parser.parse_args()
    logging.set_verbosity_error()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="strategy-matrix-"))
    if not (folder / "one").exists():
        prepare(folder, asked.precision)
        train_alone(folder)
    print(" | ".join(Row.HEADINGS))
    for row in matrix(folder, asked.strategies, asked.stages):
        print(" | ".join(row.cells()))
