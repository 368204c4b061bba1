"""Every strategy through every stage, on two processes, held against one process; `python -m tests.strategy_matrix`.

Twenty steps of four samples a stage: on one process at once, on two as two micro-batches of one sample each. Their
answers have 2 to 40 tokens, and every fifth has no image. The loss of a step is the mean over its terms, whoever had
them; what is told is the largest relative difference of a step's loss and of its gradient's norm to one process.
"""

import json
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities.types import STEP_OUTPUT

from datamodules.packing.pack import PackJob, pack
from datamodules.packing.roots import ImageRoot
from lit_avg.batch import Batch
from lit_avg.cli import main
from tests.drawn import COLOURS, image
from tests.killing import Killed
from tests.tiny_run import MODEL, write_yaml

STEPS = 20

STAGES = {"1": "Pretrain", "2": "InstructionTuning", "3": "MultiGranularityTuning", "4": "RGLF", "4 stored": "RGLF"}
"""By their numbers; what each starts from is the one before, both fourth stages from the third."""

BEFORE = {"2": "1", "3": "2", "4": "3", "4 stored": "3"}

DEEPSPEED = "tests.cpu_strategies.DeepSpeedOnCpu"

STRATEGIES: dict[str, object] = {
    "one": "auto",
    "ddp": "ddp",
    "zero1": {"class_path": DEEPSPEED, "init_args": {"stage": 1}},
    "zero2": {"class_path": DEEPSPEED, "init_args": {"stage": 2}},
    "zero3": {"class_path": DEEPSPEED, "init_args": {"stage": 3}},
    "fsdp2": {"class_path": "lightning.pytorch.strategies.ModelParallelStrategy"},
}


class StepLosses(L.Callback):
    """Writes each micro-batch's loss and number of terms, and each step's gradient norm, into a file of each rank."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(outputs, Mapping)
        norm = trainer.callback_metrics.get("train/gradient_norm", math.nan)
        line = [batch_idx // trainer.accumulate_grad_batches, float(outputs["mean_loss"])]
        line += [int(pl_module.terms(batch)), float(norm)]  # pyright: ignore
        with (Path(trainer.default_root_dir) / f"steps-{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def prepare(folder: Path, precision: str = "32-true", **changes: object) -> None:
    """Shards, the model and a config for each stage."""
    raw = folder / "raw"
    raw.mkdir(parents=True)
    records: list[dict[str, Any]] = []
    for number in range(4 * STEPS + 12):
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
    backbone = MODEL["init_args"]["backbone"]["init_args"]
    llm = {**backbone["llm"], "vocab_size": 512, "initializer_range": 0.1}
    made = {**backbone, "llm": llm, "gradient_checkpointing": True}
    model = {**MODEL, "init_args": {**MODEL["init_args"], "backbone": {**MODEL["init_args"]["backbone"]}}}
    model["init_args"]["backbone"] = {**MODEL["init_args"]["backbone"], "init_args": made}
    write_yaml(folder / "model.yaml", model)
    data = {"train": str(folder / "shards"), "val_share": 0.1, "tokenizer": "jersey", "tile_size": 32, "workers": 0}
    data |= {"grid_pinpoints": [[32, 64], [64, 32]], "system_prompt": None, "batch_size": 4}
    for number, stage in STAGES.items():
        start = {"init_from": f"${{run_root}}/{BEFORE[number]}"} if number in BEFORE else {}
        stored = {"feedback": "${run_root}/feedback"} if number == "4 stored" else {}
        arguments = {"model": "model.yaml", "optimization": {"lr": 3e-3}, **start, **stored, **changes}
        trainer = {"default_root_dir": f"${{run_root}}/{number}", "max_steps": STEPS, "accelerator": "cpu"}
        trainer |= {"precision": precision, "val_check_interval": STEPS, "gradient_clip_val": 0.3, "logger": False}
        trainer |= {"limit_val_batches": 2}
        content = {
            "run_root": str(folder / "one"),
            "trainer": trainer,
            "model": {"class_path": f"lit_avg.stages.{stage}", "init_args": arguments},
            "data": {"class_path": "datamodules.llava_shards.LLaVAShards", "init_args": data},
        }
        write_yaml(folder / f"stage{number}.yaml", content)


def options(folder: Path, strategy: str, number: str, ranks: int) -> list[str]:
    """What is said to `lit-avg fit`."""
    own = {"class_path": "tests.strategy_matrix.StepLosses"}
    trainer = {"strategy": STRATEGIES[strategy], "devices": ranks, "callbacks+": own}
    trainer |= {"accumulate_grad_batches": 2} if ranks > 1 else {}
    overlay = write_yaml(folder / f"{strategy}-{number}-{os.environ.get('LOCAL_RANK', '0')}.yaml", {"trainer": trainer})
    told = ["--config", str(folder / f"stage{number}.yaml"), "--config", overlay]
    told += ["--run_root", str(folder / strategy)]
    return told + (["--data.init_args.batch_size", str(4 // ranks // 2)] if ranks > 1 else [])


def fit_stages(folder: str, strategy: str, ranks: int, numbers: Sequence[str], *more: str) -> None:
    """The stages of a strategy, one after the other."""
    for number in numbers:
        start = ["--model.init_args.init_from", f"{folder}/one/{BEFORE[number]}"] if number in BEFORE else []
        if main(["fit", *options(Path(folder), strategy, number, ranks), *start, *more]):
            raise SystemExit(f"{strategy}: stage {number}")


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


def largest_differences(one: Path, other: Path) -> tuple[float, float]:
    """Of losses and of norms, relative."""
    both = list(zip(step_losses(one), step_losses(other), strict=True))
    assert len(both) == STEPS
    return tuple(max(abs(b[kind] / a[kind] - 1) for a, b in both) for kind in range(2))  # pyright: ignore


__all__ = ["Killed"]
