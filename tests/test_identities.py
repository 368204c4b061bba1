"""What names runs, stores, caches and data stays what it was: by another name, work of weeks would be done again.

Each name was taken down from an earlier version of the code.
"""

import json
from pathlib import Path

import pytest
import torch

from callbacks.results_writer import questions_digest
from datamodules.encoding.prompt_format import wording
from datamodules.encoding.tokenizer import load_tokenizer
from datamodules.jersey.writing import JerseySettings
from datamodules.llava_shards import LLaVAShards
from datamodules.loading.mixture import WeightedConcatDataset
from datamodules.packing.examine import under_name
from datamodules.shards.cache import ShardCache
from datamodules.shards.manifest import Shard, manifest_of
from datamodules.shards.reader import ShardedSamples, held_out
from datamodules.shards.writer import ShardWriter, write_manifest
from lit_avg.feedback.part_files import StoredFeedback, part_name, write_part
from lit_avg.feedback.store import StoredSplit, open_store
from lit_avg.llava_next.hf_model import settings_hash
from lit_avg.llava_next.llm_configs import config_of
from lit_avg.routing.policies import PolicyInputs, RandomPolicy
from lit_avg.studies.spec.fingerprint import Checked, digest
from lit_avg.studies.spec.overrides import Change
from lit_avg.utils.hashing import file_sha256, read_sha256
from lit_avg.utils.weight_io import hashes_with_types, tensors_hash
from lit_avg.visual_tokens.granularity import Granularities

WEIGHTS = [torch.arange(6, dtype=torch.float32).view(2, 3) / 3, torch.tensor([1, 2])]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_AVG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Four shards of one sample each, of bytes that no library decides."""
    folder = tmp_path / "shards"
    writer = ShardWriter(folder, shard_bytes=3000)
    for number in range(4):
        turns = [{"from": "human", "value": f"<image>\nwhat {number}"}, {"from": "gpt", "value": "an 8"}]
        record = json.dumps({"id": f"{number}", "conversations": turns}).encode()
        writer.write(record, bytes([number]) * 1000, "png")
    writer.close()
    write_manifest(folder, writer.state(), {"settings": {"split": "train"}})
    return folder


def test_data_is_called_what_it_was_called(shards: Path, tmp_path: Path) -> None:
    whole, some = ShardedSamples(shards), ShardedSamples(shards, keep=lambda key: key != "000000001")
    data = LLaVAShards(str(shards), tokenizer="jersey", batch_size=1, tile_size=16, grid_pinpoints=None, val_share=0.5)
    names = {
        "shards": [shard.sha256[:16] for shard in whole.manifest.shards],
        "manifest": whole.manifest.digest[:16],
        "described": manifest_of([Shard("a.tar", 2, 10, "ab")], {}).digest[:16],
        "chosen": (whole.chosen, some.chosen[:16]),
        "split": (data.data_digest("train") or "")[:16],
        "splits": data.manifest_hash,
        "mixture": (data.samples("train").digest, WeightedConcatDataset({"a": whole, "b": some}).digest),
        "held out": "".join(str(int(held_out(f"{number:09d}", 0.3))) for number in range(40)),
        "image": under_name("é/\udcff.jpg", "0" * 64)[:16],
        "Jersey": JerseySettings(4, 3, 2, 1).digest,
        "questions_digest": (questions_digest(data, ["b", "a"]), questions_digest(None, ["b", "a"])),
    }
    assert names == {
        "shards": ["762ec4814712815d", "1433412bb8dd73b1", "c8528c9c48f85d6a", "b27a26ed751c7cdc"],
        "manifest": "a091c6a1708e6139",
        "described": "6de78d99d968e196",
        "chosen": ("", "c431e82c011aea2f"),
        "split": "3b27ec5f4a80df5a",
        "splits": "737e6b98f9475a80",
        "mixture": ("86614461120feb71", "6b671e0fae815bc1"),
        "held out": "0010000001010011000001000110001001000000",
        "image": "d00d77a42d76db4d",
        "Jersey": "180dd0b58978",
        "questions_digest": ("969f7ed9714cca53", "6e18b662b03d65f6"),
    }


def test_words_and_weights_are_called_what_they_were_called(tmp_path: Path) -> None:
    words = wording("plain", "a template", None, "jersey", load_tokenizer("jersey"))
    path = tmp_path / "weights"
    path.write_bytes(b"weights")
    names = {
        "template": words.template_hash,
        "vocabulary": words.vocabulary_hash,
        "weights": tensors_hash(WEIGHTS)[:16],
        "with types": [found[:16] for found in hashes_with_types(WEIGHTS)],
        "file": (file_sha256(path)[:16], read_sha256(path)[:16]),
    }
    assert names == {
        "template": "2db841734c2f3f4d",
        "vocabulary": "293396b8ef060469",
        "weights": "fec115180411bd7d",
        "with types": ["dd9a4f8f8bff4e46", "e1382e1f67b17814", "94f2b6f3b73b277e"],
        "file": ("9a129038d9a00aed", "9a129038d9a00aed"),
    }


def test_runs_are_called_what_they_were_called() -> None:
    checked = Checked("c", {"/b": "2", "/a": "1"}, [], {}, None, None, "f", [4, 16])
    long = Change((Path("over/lay.yaml"),), (("model.init_args.name", "é" * 90),), ("stage3", "stage4"))
    settings = config_of({"model_type": "llama", "hidden_size": 64, "dtype": "float16"})
    content = {k: v for k, v in settings.to_dict().items() if k not in ("num_hidden_layers", "dtype", "torch_dtype")}
    content = {k: v for k, v in content.items() if k not in ("_name_or_path", "transformers_version")}
    names = {
        "run": checked.digest,
        "its feedback": checked.store_digest,
        "whatever": digest({"b": [1, 0.5, None], "a": Path("x")}),
        "branch": (long.branch()[-7:], Change((), (("a.k", 8),), ("stage4",)).branch()),
    }
    assert settings_hash(settings) == digest(content)  # of which transformers decides a part
    assert names == {
        "run": "7acbf0ad5821eb8f",
        "its feedback": "801dd2504e507a15",
        "whatever": "dc13af45fce68dcc",
        "branch": ("-24e981", "stage4@k=8"),
    }


def test_a_store_and_a_random_choice_are_what_they_were(tmp_path: Path) -> None:
    open_store(tmp_path / "store", {"granularities": "4 16", "model": "m"}, {"train": StoredSplit("d", 3, 2)})
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text(encoding="utf-8"))
    ones = torch.ones(1, 2)
    part = write_part(tmp_path, 7, StoredFeedback(["a"], ["k"], [""], ones, ones.bool(), ones[0, :1].int(), ones.int()))
    inputs = PolicyInputs([f"{number}/0" for number in range(12)], Granularities((1, 2, 4)))
    chosen = RandomPolicy(seed=5).choose(inputs)
    assert part.name == f"{part_name(7)}-{read_sha256(part)[:16]}.safetensors"
    assert manifest["sha256"][:16] == "395bf00084b17e48"
    assert chosen.tolist() == [1, 2, 2, 0, 0, 2, 1, 1, 1, 1, 2, 2]


def test_a_url_keeps_its_place_in_the_cache(tmp_path: Path) -> None:
    url = f"pipe:cat {Path(__file__).name}.none || printf shard"
    ShardCache(tmp_path / "shards", 10**6).identify(url)
    assert [path.name[:16] for path in (tmp_path / "shards" / "seen").iterdir()] == ["ef5e8172818019c5"]
