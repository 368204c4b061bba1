"""The recipe for Vicuna-7B on two processes, as it is shipped but for sizes: its strategies, precision and schedule.

Each stage is killed in its midst and continued, from captions to a router that is exported and answers. DeepSpeed is
told that it is on CPUs; encoder, LLM and tokenizer lie in folders of the hub's layout.
"""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import CLIPVisionModel
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from lit_avg.cli import main
from lit_avg.commands.export import PROMPT, fixed_image
from lit_avg.llava_next.llm_configs import config_of
from lit_avg.model import AvgLlava
from tests.strategy_matrix import draw_samples
from tests.tiny_run import write_yaml
from tests.two_ranks import fit, on_ranks
from tests.whole_way import Variant, write_tokenizer

RECIPE = Path(__file__).parents[1] / "experiments" / "vicuna-7b"
STAGES = ("stage1", "stage2", "stage3", "stage4")
VALIDATED_EVERY, KILLED_AT = 8, 13
"""Batches; a validation leaves a checkpoint, and an epoch has a few more."""


def write_parts(folder: Path) -> dict[str, Any]:
    """Encoder, LLM and tokenizer; the recipe's model with their sizes."""
    tokenizer = write_tokenizer(folder / "llm", Variant("vicuna"))
    model = yaml.safe_load((RECIPE / "model.yaml").read_text())
    backbone = model["init_args"]["backbone"]["init_args"]
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    backbone["vision_encoder"] |= {**sizes, "image_size": 56, "projection_dim": 32}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    backbone["llm"] |= {**sizes, "vocab_size": len(tokenizer) + 8, **ends, "pad_token_id": tokenizer.pad_token_id}
    model["init_args"]["granularities"] = {"tokens": [1, 2, 4, 8, 16]}
    torch.manual_seed(0)
    CLIPVisionModel(config_of(backbone["vision_encoder"])).half().save_pretrained(folder / "encoder")
    AutoModelForCausalLM.from_config(config_of(backbone["llm"])).half().save_pretrained(folder / "llm")
    return model


def write_overlay(folder: Path, stage: str, precision: str) -> str:
    """What is laid over a stage: sizes, where things lie, and that this is a CPU."""
    shipped = yaml.safe_load((RECIPE / f"{stage}.yaml").read_text())
    strategy = {**shipped["trainer"]["strategy"], "class_path": "tests.cpu_strategies.DeepSpeedOnCpu"}
    trainer = {"accelerator": "cpu", "devices": 2, "strategy": strategy, "precision": precision, "logger": False}
    trainer |= {"val_check_interval": VALIDATED_EVERY, "limit_val_batches": 2}
    model: dict[str, object] = {"model": str(folder / "model.yaml")}
    if stage == "stage1":
        model["pretrained_parts"] = {"vision_encoder": str(folder / "encoder"), "llm": str(folder / "llm")}
    data = {"tokenizer": str(folder / "llm"), "tile_size": 56, "grid_pinpoints": [[56, 112], [112, 56], [112, 112]]}
    data |= {"val_share": 0.2, "workers": 0, "batch_size": 1}
    overlay = {"trainer": trainer, "model": {"init_args": model}, "data": {"init_args": data}}
    return write_yaml(folder / f"{stage}.yaml", overlay)


def run_on_ranks(folder: Path, name: str, command: list[str]) -> list[int]:
    return on_ranks(2, folder / f"marks-{name}", fit, command, seconds=300)


@pytest.mark.slow
@pytest.mark.usefixtures("deepspeed_operators")
@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_the_recipe_goes_from_captions_to_an_exported_router_through_a_kill_in_each_stage(
    tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_samples(tmp_path, 40)
    write_yaml(tmp_path / "model.yaml", write_parts(tmp_path))
    for name in ("cc595k", "open-llava-next-1m"):
        (tmp_path / name).symlink_to(tmp_path / "shards")
    killed = {"class_path": "tests.killing.Killed", "init_args": {"moment": "backward", "count": KILLED_AT}}
    for stage in STAGES:
        data = [f"--data.init_args.train={tmp_path / ('cc595k' if stage == 'stage1' else 'open-llava-next-1m')}"]
        configs = ["--config", str(RECIPE / f"{stage}.yaml"), "--config", write_overlay(tmp_path, stage, precision)]
        command = [*configs, *data, "--run_root", str(tmp_path / "runs"), "--resume", "auto"]
        dies = run_on_ranks(tmp_path, f"{stage}-killed", [*command, f"--trainer.callbacks+={json.dumps(killed)}"])
        assert dies == [-signal.SIGKILL] * 2, stage
        assert run_on_ranks(tmp_path, stage, command) == [0, 0], stage
        lines = (tmp_path / "runs" / stage / "losses.csv").read_text().splitlines()[1:]
        assert [int(line.split(",")[0]) for line in lines] == list(range(len(lines))), stage
        assert len(lines) > KILLED_AT, stage
        assert (tmp_path / "runs" / stage / "result.json").is_file(), stage
    assert main(["export", "--ckpt", str(tmp_path / "runs" / "stage4"), "--out", str(tmp_path / "exported")]) == 0
    answers = AvgLlava.from_pretrained(str(tmp_path / "exported")).generate([fixed_image()], [PROMPT], max_new_tokens=3)
    assert answers.granularities[0] in (1, 2, 4, 8, 16)
    assert answers.probabilities.sum().item() == pytest.approx(1)
