"""Stages 3 and 4 start from what the hub has, by one overlay each; tokenizer and weights come from there, once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from lit_avg.cli import main
from lit_avg.model import AvgLlava
from tests.hub import hub
from tests.pretrained_sources import PINPOINTS, SIDE, weights, write_clip, write_llava_hf, write_open_llava_next

ROOT = Path(__file__).parents[1]

RUN_ALL = """
import json, sys
from lit_avg.cli import main
sys.exit(next(filter(None, map(main, json.loads(sys.argv[1]))), 0))
"""
"""Several commands in one process, up to the first that fails."""

SMALL = {
    "trainer.devices": 1,
    "trainer.strategy": "auto",
    "trainer.max_steps": 2,
    "trainer.limit_val_batches": 1,
    "trainer.val_check_interval": 2,
    "trainer.accumulate_grad_batches": 1,
    "model.init_args.model.init_args.granularities.tokens": "[4, 8, 16]",
    "model.init_args.model.init_args.k": 4,
    "data.init_args.tile_size": SIDE,
    "data.init_args.grid_pinpoints": str(PINPOINTS),
    "data.init_args.val_share": 0.3,
    "data.init_args.workers": 0,
    "data.init_args.batch_size": 2,
}


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conversations")
    records: list[dict[str, object]] = []
    for number in range(8):
        Image.new("RGB", (40 + 20 * number, 120), (20 * number, 0, 99)).save(folder / f"{number}.png")
        turns = [{"from": "human", "value": "<image>\nHow wide is it?"}, {"from": "gpt", "value": f"{number} pixels."}]
        records.append({"id": str(number), "image": f"{number}.png", "conversations": turns})
    (folder / "records.json").write_text(json.dumps(records))
    options = ["--annotations", str(folder / "records.json"), "--images", str(folder), "--out", str(folder / "shards")]
    assert main(["shard", *options]) == 0
    return folder / "shards"


def fit(stage: str, overlay: str, root: Path, shards: Path, *more: str) -> list[str]:
    """`lit-avg fit` of the recipe, as it is shipped but for sizes."""
    recipe = ROOT / "experiments" / "vicuna-7b"
    options = SMALL | {
        "run_root": root,
        "data.init_args.train": shards,
        "trainer.default_root_dir": root / overlay / stage,
    }
    said = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return [
        "fit",
        "--config",
        str(recipe / f"{stage}.yaml"),
        "--config",
        str(recipe / f"from-{overlay}.yaml"),
        *said,
        *more,
    ]


def commands_from(sources: Path, shards: Path) -> list[list[str]]:
    """Stages 3 and 4 from each of the three, feedback, export and import among them."""
    root = sources / "runs"
    frozen = ["--model.init_args.frozen", '["vision_encoder"]', "--trainer.precision", "32-true"]
    after = ["--model.init_args.init_from", str(root / "llava-hf/stage3")]
    live = fit("stage4", "open-llava-next", root, shards)
    stored = [*live, "--model.init_args.feedback", str(sources / "store")]
    return [
        fit("stage3", "llava-hf", root, shards, *frozen),
        fit("stage4", "llava-hf", root, shards, *after),
        ["export", "--ckpt", str(root / "llava-hf" / "stage4"), "--out", str(sources / "exported")],
        fit("stage3", "open-llava-next", root, shards),
        ["feedback", *live[1:], "--out", str(sources / "store")],
        stored,
        ["test", *stored[1:]],
        ["import-release", "Lin-Chen/open-llava-next-vicuna-7b", "--out", str(root / "imported")],
        fit("stage4", "import", root, shards),
    ]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, conversations: Path) -> Path:
    """A hub, and what the recipe made of its models."""
    folder = tmp_path_factory.mktemp("hub")
    write_llava_hf(folder / "llava-hf" / "llava-v1.6-vicuna-7b-hf")
    write_open_llava_next(folder / "Lin-Chen" / "open-llava-next-vicuna-7b", "openai/clip-vit-large-patch14-336")
    write_clip(folder / "openai" / "clip-vit-large-patch14-336")
    with hub(folder) as environment:
        done = subprocess.run(
            [sys.executable, "-c", RUN_ALL, json.dumps(commands_from(folder, conversations))],
            env={**environment, "LIT_AVG_CACHE": str(folder / "kept")},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
def test_the_recipe_starts_from_the_hub_and_from_an_import_by_an_overlay(sources: Path) -> None:
    root = sources / "runs"
    saved = {path: torch.load(root / path / "checkpoints" / "last.ckpt", weights_only=True) for path in RUNS}
    for path, left_out in RUNS.items():
        assert set(saved[path]["lit_avg_left_out"]) == left_out, path
        kept = [name for name in saved[path]["state_dict"] if "vision_tower" in name]
        assert bool(kept) == ("vision_encoder" not in left_out)
    paths = ("open-llava-next/stage4", "import/stage4")
    hashes = {saved[path]["lit_avg_left_out"]["llm"]["sha256"] for path in paths}
    assert len(hashes) == 1  # the same weights in either layout, whatever this run computes in
    assert (root / "imported" / "tokenizer.model").is_file()


@pytest.mark.slow
def test_what_was_frozen_goes_from_the_hub_to_the_exported_model_as_it_was(sources: Path) -> None:
    source, answers = weights(), AvgLlava.from_pretrained(sources / "exported")
    tower = answers.backbone.hf.model.vision_tower.state_dict()
    assert all(torch.equal(tensor, source[f"model.vision_tower.{name}"].float()) for name, tensor in tower.items())
    assert len(answers.generate([Image.new("RGB", (80, 60))], ["How wide is it?"], max_new_tokens=3).texts) == 1


BACKBONE = {"vision_encoder", "connector", "llm"}
RUNS = {
    "llava-hf/stage3": {"vision_encoder"},
    "llava-hf/stage4": BACKBONE,
    "open-llava-next/stage3": set[str](),
    "open-llava-next/stage4": BACKBONE,
    "import/stage4": BACKBONE,
}
"""What each leaves out of its checkpoint."""
