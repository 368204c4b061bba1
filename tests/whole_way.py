"""From shards to a folder that transformers loads: every verb that an LLM has to go through, on a tiny model."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from lit_avg.cli import main
from lit_avg.commands.export import PROMPT, fixed_image
from tests.llms import llm
from tests.tiny_run import write_yaml

VISION = {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
VISION |= {"num_attention_heads": 2, "image_size": 56, "patch_size": 14}

SPECIAL = {
    "vicuna": ("<s>", "</s>", ()),
    "llama3": ("<|begin_of_text|>", "<|end_of_text|>", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    "qwen2": (None, "<|im_end|>", ("<|endoftext|>", "<|im_start|>")),
}
"""First token, last token and further ones that each template's tokenizer has."""


@dataclass(frozen=True)
class Variant:
    """One way to set up what lies around an LLM."""

    template: str = "vicuna"
    room: int = 8  # rows that the LLM has beyond the tokenizer's tokens; 0: none for `<image>`
    pad_is_end: bool = False
    precision: str = "32-true"
    attention: str = "sdpa"
    pack_questions: bool = True


def write_tokenizer(folder: Path, variant: Variant) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with a template's special tokens and without `<image>`."""
    first, last, others = SPECIAL[variant.template]
    names = [token for token in ("<pad>", first, last, *others) if token is not None]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({token: number for number, token in enumerate([*names, *letters])}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    pad = last if variant.pad_is_end else "<pad>"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=first, eos_token=last, pad_token=pad, extra_special_tokens=list(others)
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def write_config(folder: Path, stage: str, run: str, family: str, variant: Variant, shards: Path, **model: Any) -> str:
    """A config of two steps of a stage, validated; gives the file's name."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    end = {"llama3": "<|eot_id|>"}.get(variant.template, tokenizer.eos_token)
    ids = {"eos_token_id": tokenizer.convert_tokens_to_ids(end), "pad_token_id": tokenizer.pad_token_id}
    settings = llm(family, vocab_size=len(tokenizer) + variant.room, bos_token_id=tokenizer.bos_token_id, **ids)
    backbone = {"vision_encoder": dict(VISION), "llm": settings, "attention": variant.attention}
    avg_llava = {
        "backbone": {"class_path": "lit_avg.llava_next.backbone.Backbone", "init_args": backbone},
        "granularities": {"tokens": [1, 2, 4, 8, 16]},
        "k": 4,
        "router": {
            "class_path": "lit_avg.routing.router.GranularityRouter",
            "init_args": {"instruction_tokens": 4, "heads": 2, "dropout": 0.0},
        },
    }
    data = {
        "train": str(shards),
        "val_share": 0.3,
        "tokenizer": str(folder / "tokenizer"),
        "template": variant.template,
        "system_prompt": None,
        "batch_size": 2,
        "tile_size": 56,
        "grid_pinpoints": [[56, 112], [112, 56]],
        "pack_questions": variant.pack_questions,
    }
    init_args = {
        "model": {"class_path": "lit_avg.model.AvgLlava", "init_args": avg_llava},
        "optimization": {"lr": 0.01},
    }
    trainer = {"default_root_dir": str(folder / run), "max_steps": 2, "accelerator": "cpu"}
    content = {
        "trainer": trainer | {"precision": variant.precision},
        "model": {"class_path": f"lit_avg.stages.{stage}", "init_args": init_args | model},
        "data": {"class_path": "datamodules.llava_shards.LLaVAShards", "init_args": data},
    }
    return write_yaml(folder / f"{run}.yaml", content)


def go_the_whole_way(folder: Path, family: str, variant: Variant, shards: Path) -> Path:
    """Stage 3, its feedback, stage 4 from the store, its test, its margin, and its export, whose folder is given."""
    write_tokenizer(folder / "tokenizer", variant)
    stage3 = write_config(folder, "MultiGranularityTuning", "stage3", family, variant, shards, init_from="random")
    before = {"init_from": str(folder / "stage3")}
    stage4 = write_config(folder, "RGLF", "stage4", family, variant, shards, **before)
    store = ["--model.init_args.feedback", str(folder / "store")]
    for command in (
        ["fit", "--config", stage3],
        ["feedback", "--config", stage4, "--out", str(folder / "store")],
        ["fit", "--config", stage4, *store],
        ["test", "--config", stage4, *store],
        ["calibrate", "--ckpt", str(folder / "stage4"), "--max-accuracy-loss", "0.5"],
        ["export", "--ckpt", str(folder / "stage4"), "--out", str(folder / "exported")],
    ):
        assert main(command) == 0, command
    return folder / "exported"


def result(run: Path) -> Mapping[str, Any]:
    """What a run has found out."""
    return json.loads((run / "result.json").read_text())


def asked_of_transformers(folder: Path) -> dict[str, Tensor]:
    """What `tests/ask_transformers.py` finds out about a folder, in a process of its own."""
    image, answers = folder.parent / "image.png", folder.parent / "answers.safetensors"
    fixed_image().save(image)
    script = str(Path(__file__).with_name("ask_transformers.py"))
    command = [sys.executable, "-I", script, str(folder), str(image), PROMPT, str(answers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    return load_file(answers)
