"""A real language model from its folder to an exported AVG-LLaVA: it starts from what it knows, and keeps it."""

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_avg.batch import IGNORED_LABEL
from lit_avg.cli import main
from lit_avg.commands.offline import finished_run, take_over_trained
from lit_avg.model import AvgLlava
from lit_avg.routing.policies import FixedPolicy
from tests.drawn import image
from tests.smollm2 import MISSING, SYSTEM_PROMPT, llm_settings, write_smollm2
from tests.tiny_run import write_yaml
from tests.whole_way import VISION

pytestmark = [
    pytest.mark.slow,
    pytest.mark.real_llm,
    pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed; `make install` does"),
]

TALK = [
    ("red", "What colour is the wall in this photo?", "The wall is red."),
    ("blue", "Describe the picture in one sentence.", "A calm blue sea lies under a clear sky."),
    (None, "What is the capital of France?", "The capital of France is Paris."),
    ("green", "Is there any grass here?", "Yes, the whole picture is green with grass."),
    (None, "How many legs does a dog have?", "A dog has four legs."),
    ("red", "Which fruit has this colour?", "A ripe strawberry has this colour."),
    ("blue", "Would you swim here?", "Yes, the water looks calm and clean."),
    (None, "Name a planet.", "Mars is a planet."),
]
"""Colours of images and what is said."""

STAGES = {"Pretrain": None, "InstructionTuning": "Pretrain", "MultiGranularityTuning": "InstructionTuning"}
STAGES["RGLF"] = "MultiGranularityTuning"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("real-llm")
    write_smollm2(made / "llm")
    return made


@pytest.fixture(scope="module")
def shards(folder: Path) -> Path:
    records: list[dict[str, Any]] = []
    for number, (colour, asked, said) in enumerate(TALK * 2):
        turns = [
            {"from": "human", "value": f"{'<image>' if colour else ''}\n{asked}".strip()},
            {"from": "gpt", "value": said},
        ]
        records.append({"id": str(number), "conversations": turns})
        if colour is not None:
            (folder / f"{number}.png").write_bytes(image(60 + 10 * (number % 5), 80, colour, number))
            records[-1]["image"] = f"{number}.png"
    (folder / "talk.json").write_text(json.dumps(records))
    said = ["--annotations", str(folder / "talk.json"), "--images", str(folder), "--out", str(folder / "shards")]
    assert main(["shard", *said]) == 0
    return folder / "shards"


def write_stage(folder: Path, shards: Path, stage: str, before: str | None) -> str:
    """Two steps; the connector alone in stage 1, an adapter of the LLM from stage 2 on."""
    backbone: dict[str, Any] = {"vision_encoder": dict(VISION), "llm": llm_settings(folder / "llm")}
    arguments: dict[str, Any] = {"optimization": {"lr": 1e-3}}
    if before is None:
        arguments["pretrained_parts"] = {"llm": str(folder / "llm")}
    else:
        arguments["init_from"] = str(folder / before)
        backbone["lora"] = {"rank": 4, "alpha": 8}
    model = {
        "backbone": {"class_path": "lit_avg.llava_next.backbone.Backbone", "init_args": backbone},
        "granularities": {"tokens": [4, 16], "step": 4},
        "k": 4,
        "router": {
            "class_path": "lit_avg.routing.router.GranularityRouter",
            "init_args": {"instruction_tokens": 4, "heads": 2},
        },
    }
    data = {"train": str(shards), "val": str(shards), "tokenizer": str(folder / "llm"), "template": "qwen2"}
    data |= {"system_prompt": SYSTEM_PROMPT, "batch_size": 2, "tile_size": 56, "grid_pinpoints": [[56, 112], [112, 56]]}
    trainer = {"default_root_dir": str(folder / stage), "max_steps": 2, "accelerator": "cpu", "limit_val_batches": 1}
    names = ("LossRecord", "LastCheckpoint", "ResultsWriter")  # others would show it the validation images again
    trainer["callbacks"] = [{"class_path": f"callbacks.{name}"} for name in names]
    content = {
        "trainer": trainer,
        "model": {
            "class_path": f"lit_avg.stages.{stage}",
            "init_args": {"model": {"class_path": "lit_avg.model.AvgLlava", "init_args": model}, **arguments},
        },
        "data": {"class_path": "datamodules.llava_shards.LLaVAShards", "init_args": data},
    }
    return write_yaml(folder / f"{stage}.yaml", content)


@pytest.fixture(scope="module")
def runs(folder: Path, shards: Path) -> Path:
    for stage, before in STAGES.items():
        assert main(["fit", "--config", write_stage(folder, shards, stage, before)]) == 0, stage
    assert main(["export", "--ckpt", str(folder / "RGLF"), "--out", str(folder / "exported")]) == 0
    return folder


def losses(run: Path) -> list[float]:
    with (run / "losses.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@torch.no_grad()
def test_the_folder_is_the_model_that_answers_and_its_template_is_ours(folder: Path) -> None:
    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder / "llm"),
        AutoModelForCausalLM.from_pretrained(folder / "llm"),
    )
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == model.generation_config.eos_token_id
    asked = [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": "What is the capital of France?"},
    ]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"


@torch.no_grad()
def test_losses_start_where_those_of_the_language_model_do(runs: Path) -> None:
    begun = [losses(runs / stage)[0] for stage in ("Pretrain", "InstructionTuning", "MultiGranularityTuning")]
    assert all(loss < 0.4 * math.log(49152) for loss in begun), begun  # that of a model which knows nothing
    cli, _ = finished_run(str(runs / "Pretrain"))
    take_over_trained(cli.stage, cli.trainer, str(runs / "Pretrain"))
    cli.datamodule.setup("fit")
    plain, tokenizer = (kind.from_pretrained(runs / "llm") for kind in (AutoModelForCausalLM, AutoTokenizer))
    plain.float()
    compared = 0
    for batch in cli.datamodule.val_dataloader():
        outcomes = cli.stage.evaluate(cli.datamodule.on_after_batch_transfer(batch, 0))
        for question, (key, row) in enumerate(zip(batch.keys, batch.input_ids, strict=True)):
            _, asked, said = TALK[int(key.split("/")[0]) % len(TALK)]
            if bool((row < 0).any()):
                continue  # has an image
            chat = [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": asked}]
            prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")["input_ids"]
            ids = torch.cat([prompt, tokenizer(f"{said}<|im_end|>", return_tensors="pt")["input_ids"]], dim=1)
            assert row[batch.question[question] != -2][: ids.shape[1]].tolist() == ids[0].tolist()
            labels = ids.clone()
            labels[:, : prompt.shape[1]] = IGNORED_LABEL
            expected = F.cross_entropy(plain(input_ids=ids).logits[0, :-1], labels[0, 1:], ignore_index=IGNORED_LABEL)
            torch.testing.assert_close(-outcomes.feedback[question, -1], expected, atol=1e-4, rtol=0)
            compared += 1
    assert compared == 6


def test_a_real_model_learns_and_what_is_saved_of_it_is_small(runs: Path) -> None:
    for stage in STAGES:
        assert all(math.isfinite(loss) for loss in losses(runs / stage)), stage
        checkpoint = runs / stage / "checkpoints" / "last.ckpt"
        assert checkpoint.stat().st_size < 0.2 * (runs / "llm" / "model.safetensors").stat().st_size, stage
    assert losses(runs / "MultiGranularityTuning")[-1] < losses(runs / "InstructionTuning")[0]
    metrics = json.loads((runs / "MultiGranularityTuning" / "result.json").read_text())["metrics"]
    assert 0 < metrics["val/loss"] < 0.4 * math.log(49152)


def test_what_is_exported_still_speaks_english(runs: Path) -> None:
    model = AvgLlava.from_pretrained(runs / "exported")
    finest = FixedPolicy(model.granularities.finest)
    with safe_open(runs / "exported" / "model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "lm_head" in name]  # noqa: SIM118  it is no dict
    asked = ["What is the capital of France?", "Describe the picture in one sentence."]
    shown = [None, Image.new("RGB", (70, 90), (200, 30, 30))]
    capital, described = model.generate(shown, asked, finest, max_new_tokens=16).texts
    assert "Paris" in capital
    assert re.fullmatch(r"[A-Za-z0-9 ,.'\"!?:;-]+", described)
    assert len(re.findall(r"[a-z]{2,}", described)) > 3
