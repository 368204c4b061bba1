"""Checkpoints of the authors' come in whole or not at all, and a folder of ours gives back what was written."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from lit_avg import cli
from lit_avg.batch import Batch
from lit_avg.commands.import_release import imported
from lit_avg.llava_next.llava_layout import PREFIXES, VOTER, from_release, release_config, to_release
from lit_avg.model import AvgLlava
from tests.hub import hub

CASE = Path(__file__).parents[2] / "data" / "golden" / "case_a"
Change = Callable[[dict[str, Tensor]], object]


class Evil:
    """A pickle of this makes a folder when it is read by a careless program."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return load_file(CASE / "weights.safetensors")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of the authors', but for its weights."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in ("config.json", "vision_config.json"):
        shutil.copy(CASE / name, folder / name)
    return folder


def said(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What `lit-avg import-release` says of a checkpoint that it refuses."""
    assert cli.main(["import-release", str(checkpoint), "--out", str(checkpoint.parent / "out")]) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert not (checkpoint.parent / "out").exists()
    return message.splitlines()[-1]


def same(ours: AvgLlava, other: AvgLlava) -> bool:
    one, two = ours.state_dict(), other.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def widen(weights: dict[str, Tensor]) -> None:
    weights["model.mm_projector.2.weight"] = torch.zeros(50, 48)


REFUSED: dict[str, tuple[Change, str]] = {
    "a missing tensor": (lambda w: w.pop("model.norm.weight"), "lacks model.language_model.norm.weight"),
    "a missing router tensor": (lambda w: w.pop("model.router.voter"), "model.router lacks voter"),
    "an extra tensor": (lambda w: w.update({"model.stray": torch.zeros(1)}), "language_model.stray too many"),
    "another width": (widen, "linear_2.weight is (50, 48), but (48, 48)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_checkpoint_that_does_not_fit_its_config_is_refused_in_a_line(
    name: str, weights: dict[str, Tensor], checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, expected = REFUSED[name]
    change(weights)
    save_file(weights, checkpoint / "model.safetensors")
    assert expected in said(checkpoint, capsys)


def test_a_pickle_with_code_in_it_is_refused_and_not_run(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made by the pickle"
    torch.save({"model.norm.weight": Evil(made)}, checkpoint / "pytorch_model.bin")
    assert "reading it could run code" in said(checkpoint, capsys)
    assert not made.exists()


def test_weights_cut_short_a_lost_shard_and_no_weights_are_told_apart(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "has no weights" in said(checkpoint, capsys)
    (checkpoint / "model.safetensors").write_bytes((CASE / "weights.safetensors").read_bytes()[:9999])
    assert "cut short" in said(checkpoint, capsys)
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00001-of-00001.safetensors is missing" in said(checkpoint, capsys)


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("mm_projector_type", "linear", "mm_projector_type is linear"),
        ("model_type", "llama", "model_type is llama"),
    ],
)
def test_what_is_no_llava_next_is_refused(
    setting: str, value: str, told: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {setting: value}))
    assert told in said(checkpoint, capsys)


def test_sharded_and_pickled_weights_give_the_same_model_as_one_file(
    checkpoint: Path, weights: dict[str, Tensor]
) -> None:
    save_file(weights, checkpoint / "model.safetensors")
    one = imported(str(checkpoint))
    (checkpoint / "model.safetensors").unlink()
    names = sorted(weights)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, members in shards.items():
        save_file({name: weights[name] for name in members}, checkpoint / shard)
    index = checkpoint / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: shard for shard, held in shards.items() for name in held}}))
    assert same(imported(str(checkpoint)), one)
    index.unlink()
    torch.save(weights, checkpoint / "pytorch_model.bin")
    assert same(imported(str(checkpoint)), one)


def test_the_verb_writes_a_folder_that_loads_bit_for_bit(checkpoint: Path, weights: dict[str, Tensor]) -> None:
    save_file(weights, checkpoint / "model.safetensors")
    out = checkpoint.parent / "out"
    assert cli.main(["import-release", str(checkpoint), "--out", str(out)]) == 0
    model, loaded = imported(str(checkpoint)), AvgLlava.from_pretrained(out)
    assert same(loaded, model)
    assert loaded.semantics == model.semantics
    assert loaded.backbone.hf.config.image_grid_pinpoints == [[192, 96], [96, 192], [192, 192], [96, 288], [288, 96]]
    back = to_release(loaded.state_dict())
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)


def test_a_llava_next_without_a_router_gets_a_fresh_one(checkpoint: Path, weights: dict[str, Tensor]) -> None:
    plain = {name: tensor for name, tensor in weights.items() if not name.startswith("model.router")}
    save_file(plain, checkpoint / "model.safetensors")
    model = imported(str(checkpoint))
    assert model.semantics.attention == "tokens"
    folder = checkpoint.parent / "transformers"
    model.backbone.hf.save_pretrained(folder)
    assert same(imported(str(folder)), imported(str(folder)))
    assert torch.equal(imported(str(folder)).backbone.hf.lm_head.weight, weights["lm_head.weight"])


def test_a_folder_of_ours_gives_back_the_model_and_its_logits(model: AvgLlava, batch: Batch, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "ours")
    loaded = AvgLlava.from_pretrained(tmp_path / "ours")
    assert same(loaded, model)
    assert torch.equal(loaded.route(batch, loaded.encode_levels(batch)), model.route(batch, model.encode_levels(batch)))


def test_a_folder_of_ours_that_was_tampered_with_is_refused(model: AvgLlava, tmp_path: Path) -> None:
    folder = tmp_path / "ours"
    for file, name, expected in [
        ("router.safetensors", "voter", "lacks voter"),
        ("model.safetensors", "model.language_model.norm.weight", "lacks"),
    ]:
        model.save_pretrained(folder)
        tensors = load_file(folder / file)
        stray = next(held for held in tensors if held.endswith(name.rpartition("language_model.")[2]))
        save_file({held: tensor for held, tensor in tensors.items() if held != stray}, folder / file, {"format": "pt"})
        with pytest.raises(ValueError, match=expected):
            AvgLlava.from_pretrained(folder)
        save_file(tensors | {"stray": torch.zeros(1)}, folder / file, {"format": "pt"})
        with pytest.raises(ValueError, match="stray too many"):
            AvgLlava.from_pretrained(folder)
        save_file(tensors | {stray: torch.zeros(3)}, folder / file, {"format": "pt"})
        with pytest.raises(ValueError, match=r"is \(3,\)"):
            AvgLlava.from_pretrained(folder)


@given(st.sampled_from([ours for _, ours in PREFIXES]), st.text("abc.", max_size=9))
def test_our_names_come_back_from_the_release_s(prefix: str, rest: str) -> None:
    name = prefix + rest
    assert list(from_release(to_release({name: torch.zeros(2)}))) == [name]


def test_the_voter_is_a_column_there_and_a_row_here() -> None:
    assert to_release({VOTER: torch.zeros(7)})["model.router.voter"].shape == (7, 1)
    assert from_release({"model.router.voter": torch.zeros(7, 1)})[VOTER].shape == (7,)


def test_three_granularities_are_read_with_their_step() -> None:
    config = json.loads((CASE / "config.json").read_text())
    granularities = release_config(config | {"vis_token_granularity": [36, 144, 576]}).granularities
    assert granularities is not None
    assert granularities.step == 4


def test_a_hub_id_is_downloaded_and_so_is_the_encoder_it_names(
    checkpoint: Path, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    authors, encoder = tmp_path / "authors" / "avg-llava", tmp_path / "openai" / "clip-vit-large-patch14-336"
    encoder.mkdir(parents=True)
    (checkpoint / "vision_config.json").rename(encoder / "config.json")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"mm_vision_tower": "openai/" + encoder.name}))
    authors.parent.mkdir()
    checkpoint.rename(authors)
    save_file(weights, authors / "model.safetensors")
    (authors / "README.md").write_text("not asked for")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "lit_avg.cli", "import-release", "authors/avg-llava", "--out", str(out)]
    nobody = [*command[:4], "authors/nobody", *command[5:]]
    with hub(tmp_path) as environment:
        refused = subprocess.run(nobody, env=environment, capture_output=True, text=True, timeout=120, check=False)
        fetched = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (refused.returncode, "authors/nobody is no folder here" in refused.stderr) == (2, True)
    assert fetched.returncode == 0, fetched.stderr
    assert torch.equal(AvgLlava.from_pretrained(out).router.voter.flatten(), weights["model.router.voter"].flatten())
    assert not list(tmp_path.glob("cache/**/README.md"))
