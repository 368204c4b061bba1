"""Feedback written once is read by every router: bit for bit what it would be live, and only where it belongs."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml

from lit_avg.cli import main
from lit_avg.feedback.part_files import read_part
from lit_avg.feedback.store import FeedbackStore
from lit_avg.stages import RGLF
from tests.drawn import drawn_shards
from tests.stored import config, copied, trained

SAMPLES = 14


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn_shards(tmp_path_factory.mktemp("drawn"), SAMPLES, rounds=2)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> tuple[Path, list[str]]:
    """A folder with a run of stage 3, a store of its feedback, and the command that wrote the store."""
    folder = tmp_path_factory.mktemp("chain")
    stage3 = config(folder, shards, "MultiGranularityTuning", "stage3")
    assert main(["fit", "--config", stage3]) == 0
    stage4 = config(folder, shards, "RGLF", "live", init_from=str(folder / "stage3"), per_sample=True)
    command = ["feedback", "--config", stage4, "--ckpt", str(folder / "stage3"), "--samples-per-part", "3"]
    assert main([*command, "--out", str(folder / "store")]) == 0
    return folder, command


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert main(argv) == 2
    return capsys.readouterr().err


def test_a_router_trained_from_the_store_is_bit_equal_to_one_trained_live(chain: tuple[Path, list[str]]) -> None:
    folder, _ = chain
    assert main(["fit", "--config", str(folder / "live.yaml")]) == 0
    from_store = ["--model.init_args.feedback", str(folder / "store"), "--trainer.default_root_dir"]
    assert main(["fit", "--config", str(folder / "live.yaml"), *from_store, str(folder / "stored")]) == 0
    live, stored = trained(folder / "live"), trained(folder / "stored")
    assert live.keys() == stored.keys()
    assert [name for name in live if not torch.equal(live[name], stored[name])] == []
    metrics = [json.loads((folder / run / "result.json").read_text())["metrics"] for run in ("live", "stored")]
    assert metrics[0] == metrics[1]
    assert main(["test", "--config", str(folder / "live.yaml"), *from_store, str(folder / "stored")]) == 0


def test_whole_batches_give_the_feedback_of_samples_alone_but_for_rounding(chain: tuple[Path, list[str]]) -> None:
    folder, command = chain
    batched = ["--model.init_args.per_sample", "false", "--out", str(folder / "batched")]
    assert main([*command, *batched]) == 0
    for split in ("train", "val"):
        alone, together = (FeedbackStore(folder / store).read(split) for store in ("store", "batched"))
        assert together.keys == alone.keys
        torch.testing.assert_close(together.log_prob, alone.log_prob, atol=1e-6, rtol=1e-6)


def test_three_of_the_five_levels_train_from_the_same_store(chain: tuple[Path, list[str]], shards: Path) -> None:
    folder, _ = chain
    three = {"levels": [1, 4, 16], "init_from": str(folder / "stage3"), "per_sample": True}
    live = config(folder, shards, "RGLF", "three-live", **three)
    stored = config(folder, shards, "RGLF", "three-stored", feedback=str(folder / "store"), alpha=0.1, **three)
    assert main(["fit", "--config", live]) == 0
    assert main(["fit", "--config", stored]) == 0
    runs = [trained(folder / run) for run in ("three-live", "three-stored")]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_a_fit_from_the_store_has_no_llm(chain: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = chain
    seen = list[set[str]]()

    def look(stage: RGLF) -> None:
        seen.append(
            {name for name, _ in stage.model.named_parameters() if "language_model" in name or "lm_head" in name}
        )

    monkeypatch.setattr(RGLF, "on_fit_start", look)
    options = [
        "--model.init_args.feedback",
        str(folder / "store"),
        "--run_root",
        str(folder),
        "--trainer.max_steps",
        "1",
    ]
    run = ["--trainer.default_root_dir", str(folder / "without")]
    assert main(["fit", "--config", str(folder / "live.yaml"), *options, *run]) == 0
    (names,) = seen
    assert {name.rpartition("language_model.")[2] for name in names} == {"embed_tokens.weight", "norm.weight"}


def test_a_killed_writer_leaves_nothing_that_its_successor_does_not_mend(
    chain: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder, command = chain
    store = tmp_path / "store"
    argv = [sys.executable, "-m", "lit_avg.cli", *command, "--samples-per-part", "1", "--out", str(store)]
    killed = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    for _ in range(1200):
        if list(store.glob("train/part-*.safetensors")) or killed.poll() is not None:
            break
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    made = len(list(store.glob("*/part-*.safetensors")))
    total = sum(len(split.parts) for split in FeedbackStore(store).splits.values())
    assert 0 < made < total == SAMPLES
    (store / "train" / "part-00008.partial").write_bytes(b"half")
    assert main([*command, "--out", str(store)]) == 0
    assert list(store.rglob("*.partial")) == []
    for split in ("train", "val"):
        whole, mended = FeedbackStore(folder / "store").read(split), FeedbackStore(store).read(split)
        assert set(Counter(mended.keys).values()) == {1}
        assert mended.keys == whole.keys
        assert torch.equal(mended.log_prob, whole.log_prob)


def test_two_processes_share_the_work(chain: tuple[Path, list[str]], tmp_path: Path) -> None:
    _, command = chain
    argv = [sys.executable, "-m", "lit_avg.cli", *command, "--samples-per-part", "1", "--out", str(tmp_path / "store")]
    both = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    made = [int(line.split()[1]) for output in said for line in output.splitlines() if " parts made here" in line]
    assert sum(made) == SAMPLES
    assert (
        len(FeedbackStore(tmp_path / "store").read("train")) + len(FeedbackStore(tmp_path / "store").read("val")) == 28
    )


def workers() -> list[int]:
    """Processes that this one has started anew."""
    children = [int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]
    return [pid for pid in sorted(children) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.slow
def test_two_devices_are_two_processes_that_make_the_very_same_store_and_one_that_is_killed_is_told(
    chain: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, command = chain
    store, statuses = tmp_path / "store", list[int]()
    argv = [*command, "--samples-per-part", "1", "--devices", "2", "--out", str(store)]
    thread = threading.Thread(target=lambda: statuses.append(main(argv)))
    thread.start()
    while not list(store.glob("train/part-*.safetensors")):
        assert thread.is_alive()
        time.sleep(0.05)
    both = workers()
    assert len(both) == 2
    os.kill(both[1], signal.SIGKILL)
    thread.join(60)
    assert statuses == [2]
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("lit-avg: process 2 of 2 was killed by SIGKILL, perhaps for want of memory")
    assert workers() == []
    made = {path: path.read_bytes() for path in store.glob("*/part-*.safetensors")}
    assert made
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["train", "val"]
    assert all(" by 2 processes; all are there" in line for line in lines)
    parts = set(store.glob("*/part-*.safetensors"))
    assert sum(int(line.split()[1]) for line in lines) == len(parts) - len(made)
    assert all(path.read_bytes() == content for path, content in made.items())
    for split in ("train", "val"):
        alone, together = (FeedbackStore(place).read(split) for place in (folder / "store", store))
        assert together.keys == alone.keys
        assert torch.equal(together.log_prob, alone.log_prob)


def test_a_flipped_byte_is_found_and_the_part_named(chain: tuple[Path, list[str]], tmp_path: Path) -> None:
    store = copied(chain[0] / "store", tmp_path / "store")
    part = sorted(store.glob("train/part-00001-*"))[0]
    data = bytearray(part.read_bytes())
    for place in (3, len(data) // 2, len(data) - 1):
        damaged = bytearray(data)
        damaged[place] ^= 1
        part.write_bytes(damaged)
        with pytest.raises(Exception, match=rf"{part.name} is damaged"):
            FeedbackStore(store).read("train")
    part.write_bytes(data)
    assert len(FeedbackStore(store).read("train")) == len(FeedbackStore(chain[0] / "store").read("train"))
    manifest = store / "manifest.json"
    manifest.write_text(manifest.read_text().replace("average", "maximum"))
    with pytest.raises(Exception, match=r"manifest.json is damaged"):
        FeedbackStore(store)


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("data.init_args.system_prompt", "Be brief.", "system prompt is  there and Be brief. here"),
        ("data.init_args.val_share", "0.5", "feedback on other data: train is"),
        ("model.init_args.model.init_args.pooling", "max", "pooling is average there and max here"),
        ("model.init_args.model.init_args.semantics", "release", "unpad is true share there and token grid here"),
        ("trainer.precision", "bf16-mixed", "precision is 32-true there and bf16-mixed here"),
        ("model.init_args.per_sample", "false", "per_sample is true there and false here"),
    ],
)
def test_feedback_of_another_origin_is_refused_with_both_sides_named(
    option: str, value: str, told: str, chain: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = chain
    fit = ["fit", "--config", str(folder / "live.yaml"), "--overwrite", "--model.init_args.feedback", f"{folder}/store"]
    assert told in refused(capsys, *fit, f"--{option}", value)


def test_other_weights_are_refused(
    chain: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str], shards: Path
) -> None:
    folder, command = chain
    assert (
        main(["fit", "--config", config(folder, shards, "MultiGranularityTuning", "another"), "--seed_everything", "7"])
        == 0
    )
    other = [*command, "--ckpt", str(folder / "another"), "--out", str(folder / "store")]
    assert "weights of the connector is" in refused(capsys, *other)


def test_an_incomplete_store_is_refused(
    chain: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = copied(chain[0] / "store", tmp_path / "store")
    next(store.glob("val/part-00000-*")).unlink()
    fit = ["fit", "--config", str(chain[0] / "live.yaml"), "--overwrite", "--model.init_args.feedback", str(store)]
    assert "is not complete: 1 of" in refused(capsys, *fit)


def test_the_report_counts_what_is_best_and_draws_it(
    chain: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    store = chain[0] / "store"
    assert main(["feedback", "report", str(store)]) == 0
    output = capsys.readouterr().out
    stored = FeedbackStore(store).read("train")
    pictured = stored.visual_tokens[:, -1] > 0
    assert f"{len(stored)} questions of train, {int(pictured.sum())} about an image" in output
    finest = (stored.log_prob[pictured].argmax(dim=1) == 4).double().mean().item()
    assert f"{finest:.1%}" in output
    assert (store / "report-train.png").stat().st_size > 10_000


def test_a_part_says_what_the_sample_was(chain: tuple[Path, list[str]]) -> None:
    part = read_part(next((chain[0] / "store" / "train").glob("part-00000-*")))
    assert part.keys[0].endswith("/0")
    assert part.log_prob.shape == (len(part), 5)
    assert part.log_prob.dtype == torch.float32
    assert bool((part.answer_tokens > 0).all())
    assert (
        yaml.safe_load((chain[0] / "store" / "manifest.json").read_text())["identity"]["granularities"] == "1 2 4 8 16"
    )
