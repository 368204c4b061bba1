"""A data set's class states what is its own; what it inherits is in `--help`, saved configs and refusals as well."""

from argparse import SUPPRESS, Action
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser

import datamodules
from datamodules.encoding.conversation import VICUNA_SYSTEM_PROMPT
from datamodules.encoding.tiling import CLIP_MEAN, CLIP_STD, LLAVA_NEXT_PLANES
from lit_avg.cli import main
from lit_avg.commands.offline import BuildingCLI
from tests.tiny_run import write_stage, write_yaml

REQUIRED = object()

OF_BASE: dict[str, object] = {
    "tokenizer": REQUIRED,
    "batch_size": REQUIRED,
    "tile_size": REQUIRED,
    "grid_pinpoints": None,  # to jsonargparse, which takes what may be null for null where it is left out
    "template": "vicuna",
    "system_prompt": VICUNA_SYSTEM_PROMPT,
    "max_length": 4096,
    "independent_turns": False,
    "pack_questions": True,
    "workers": 0,
    "seed": 0,
    "image_mean": CLIP_MEAN,
    "image_std": CLIP_STD,
    "eval_batch_size": None,
    "group_by_length": False,
    "max_bad_share": 0.01,
    "shard_cache": None,
    "cache_gb": 100.0,
    "train_transforms": None,
}
OF_SHARDS = OF_BASE | {"train": REQUIRED, "val": None, "test": None, "val_share": 0.0}
OF_VICUNA = OF_SHARDS | {"tokenizer": "lmsys/vicuna-7b-v1.5", "tile_size": 336, "grid_pinpoints": LLAVA_NEXT_PLANES}
OF_VICUNA |= {"val_share": 0.002, "workers": 8}


def without(arguments: dict[str, object], *fixed: str) -> dict[str, object]:
    return {name: default for name, default in arguments.items() if name not in fixed}


DRAWN = {"images_train": 6000, "images_val": 500, "images_test": 1000, "image_seed": 0, "cache_dir": None}
DRAWN |= {"learnt_kinds": None, "learnt_images": "all", "tested_images": "all"}
FIXED_OF_JERSEY = ("tokenizer", "tile_size", "system_prompt", "independent_turns", "shard_cache", "cache_gb")

ARGUMENTS: dict[str, dict[str, object]] = {
    "LLaVAShards": OF_SHARDS,
    "CC595K": without(OF_VICUNA, "template", "system_prompt") | {"train": "data/cc595k", "batch_size": 32},
    "InstructionMix": OF_VICUNA | {"batch_size": 4},
    "ALLaVA": OF_VICUNA | {"batch_size": 4},
    "Jersey": without(OF_BASE, *FIXED_OF_JERSEY) | DRAWN | {"batch_size": 24, "grid_pinpoints": ((64, 128), (128, 64))},
}
"""What each data set may be given, and the defaults."""


def actions_of(name: str) -> list[Action]:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(getattr(datamodules, name), "data")
    return [action for action in parser._actions if action.dest.startswith("data.") and action.default != SUPPRESS]  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("name", datamodules.__all__)
def test_every_argument_has_its_default_and_says_what_it_is(name: str) -> None:
    actions = {action.dest.removeprefix("data."): action for action in actions_of(name)}
    defaults = {argument: REQUIRED if it.required else it.default for argument, it in actions.items()}
    assert defaults == ARGUMENTS[name]
    undescribed = [argument for argument, it in actions.items() if len((it.help or "").split()) < 3]
    assert undescribed == []
    assert [argument for argument, it in actions.items() if "see there" in str(it.help)] == []


def test_help_on_a_class_tells_of_what_it_inherits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--data.help", "datamodules.CC595K"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "samples a step on each rank; on 8 of them the paper's 256. (type: int, default: 32)" in told
    assert "longest text in tokens, the image counted as one" in told
    assert "makes room. (type: float, default: 100.0)" in told
    assert "--data.template" not in told


def config(folder: Path, name: str, **arguments: object) -> list[str]:
    overlay = {"data": {"class_path": f"datamodules.{name}", "init_args": arguments}}
    return ["--config", write_stage(folder, "InstructionTuning"), "--config", write_yaml(folder / "d.yaml", overlay)]


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("CC595K", "template"), ("CC595K", "bach_size"), ("InstructionMix", "max_lenght"), ("Jersey", "shard_cache")],
)
def test_a_key_that_a_data_set_does_not_take_is_refused_with_its_name(
    name: str, wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *config(tmp_path, name, **{wrong: "1"})]) == 2
    assert f"Option '{wrong}' is not accepted" in capsys.readouterr().err


def test_python_refuses_it_as_well() -> None:
    with pytest.raises(TypeError, match="bach_size"):
        datamodules.CC595K(bach_size=2)
    with pytest.raises(TypeError, match="positional"):
        datamodules.LLaVAShards("nowhere", "jersey")  # pyright: ignore[reportCallIssue]  `val` is not meant


def test_a_saved_config_has_every_value_and_comes_to_the_same_again(tmp_path: Path) -> None:
    first = BuildingCLI(["fit", *config(tmp_path, "CC595K", batch_size=3)]).config_text()
    saved: dict[str, Any] = yaml.safe_load(first)
    assert {*saved["data"]["init_args"], "seed"} == set(ARGUMENTS["CC595K"])  # that is the run's `seed_everything`
    assert (saved["data"]["init_args"]["batch_size"], saved["data"]["init_args"]["workers"]) == (3, 8)
    (tmp_path / "saved.yaml").write_text(first)
    assert BuildingCLI(["fit", "--config", str(tmp_path / "saved.yaml")]).config_text() == first


def test_what_a_class_fixes_and_what_it_passes_on_arrive() -> None:
    data = datamodules.CC595K("elsewhere", batch_size=3, max_length=7, eval_batch_size=5)
    assert (data.template, data.system_prompt, data.tile_size) == ("plain", None, 336)
    assert (data.batch_size, data.eval_batch_size, data.max_length, data.workers) == (3, 5, 7, 8)
    assert data.sources("train")[0].shards == "elsewhere"
