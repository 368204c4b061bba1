"""Stages on drawn shards, whose feedback can be stored, and what to look at of them."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.tiny_run import MODEL, write_yaml


def model(levels: list[int]) -> dict[str, Any]:
    made = copy.deepcopy(MODEL)
    made["init_args"]["backbone"]["init_args"]["llm"]["vocab_size"] = 512
    made["init_args"]["granularities"] = {"tokens": levels, "step": levels[1] // levels[0]}
    made["init_args"]["router"]["init_args"]["dropout"] = 0.1  # which draws, and must draw alike
    return made


def config(folder: Path, shards: Path, stage: str, name: str, levels: list[int] | None = None, **more: object) -> str:
    data = {"train": str(shards), "tokenizer": "jersey", "batch_size": 3, "tile_size": 32, "val_share": 0.3}
    data |= {"grid_pinpoints": [[32, 64], [64, 32]], "system_prompt": None, "independent_turns": True}
    arguments = {"model": model(levels or [1, 2, 4, 8, 16]), "optimization": {"lr": 0.01}}
    arguments |= {} if stage == "Pretrain" else {"init_from": "random"}
    arguments |= more
    content = {
        "run_root": str(folder),
        "trainer": {"default_root_dir": str(folder / name), "max_steps": 5, "accelerator": "cpu"},
        "model": {"class_path": f"lit_avg.stages.{stage}", "init_args": arguments},
        "data": {"class_path": "datamodules.llava_shards.LLaVAShards", "init_args": data},
    }
    return write_yaml(folder / f"{name}.yaml", content)


def trained(run: Path) -> dict[str, Tensor]:
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return {name: tensor for name, tensor in weights.items() if "router" in name or name == "delta"}


def copied(store: Path, to: Path) -> Path:
    for path in store.rglob("*"):
        if path.is_file():
            target = to / path.relative_to(store)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return to
