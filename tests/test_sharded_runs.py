"""Runs that ZeRO-2, ZeRO-3 and FSDP2 shard over two ranks: killed and gone on with, and read by whoever wants weights.

One pair of processes has all lives of a strategy: stage 4, left alone and killed, and a stage 2. Everything after is
one process that reads what they have left.
"""

import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from lit_avg.cli import main
from lit_avg.runs.consolidation import SAVING_KEY, WHOLE_KEY, read_shared, weights_path
from lit_avg.runs.run_folder import LAST_CHECKPOINT, consolidated_path
from lit_avg.runs.sharded_checkpoint import INDEX, read_index
from lit_avg.utils.hashing import file_sha256
from tests.continuation import Life, differences, live
from tests.drawn import drawn_shards
from tests.killing import write_config
from tests.sharded_lives import live_on_two, strategy

STEPS = ("--trainer.max_steps", "6", "--trainer.val_check_interval", "4")
EPOCHS = (
    *("--trainer.max_steps", "-1", "--trainer.max_epochs", "2", "--trainer.val_check_interval", "3"),
    *("--trainer.accumulate_grad_batches", "2"),  # an epoch has 5 batches: steps end behind 2, 4 and 5
)
STAGE2 = ("--trainer.max_steps", "1", "--trainer.val_check_interval", "1")
FEW = ("--trainer.limit_val_batches", "2")
VOCABULARY = 4096  # so that what is frozen outweighs the rest

MAKE_ROOM = {"class_path": "tests.sharded_lives.MakeRoom", "init_args": {"step": 2}}


def add(callback: Mapping[str, object]) -> str:
    return f"--trainer.callbacks+={json.dumps(callback)}"


@dataclass(frozen=True)
class Runs:
    """What a strategy has left: runs by name, and how their lives ended."""

    folder: Path
    name: str
    statuses: dict[str, list[int]]

    def __getitem__(self, name: str) -> Path:
        return self.folder / self.name / name


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configs of stages 2, 3 and 4 on 23 samples; stage 4 begins from a stage 3 that one process has trained."""
    folder = tmp_path_factory.mktemp("sharded")
    made = yaml.safe_load(Path(write_config(folder, drawn_shards(folder, 23), 6)).read_text())
    model = yaml.safe_load((folder / "model.yaml").read_text())
    model["init_args"]["backbone"]["init_args"]["llm"]["vocab_size"] = VOCABULARY
    (folder / "model.yaml").write_text(yaml.safe_dump(model))
    for number, stage in {2: "InstructionTuning", 3: "MultiGranularityTuning", 4: "GumbelRouterTuning"}.items():
        arguments = made["model"]["init_args"] | {"init_from": str(folder / "stage3") if number == 4 else "random"}
        content = made | {"model": {"class_path": f"lit_avg.stages.{stage}", "init_args": arguments}}
        (folder / f"stage{number}.yaml").write_text(yaml.safe_dump(content))
    assert live(folder / "stage3", str(folder / "stage3.yaml"), [*STAGE2, *FEW], [Life()]) == [0]
    return folder


@pytest.fixture(scope="module", params=["zero2", "zero3", "fsdp2"])
def runs(request: pytest.FixtureRequest, configs: Path) -> Runs:
    """All lives of a strategy."""
    stage4, stage2, folder = str(configs / "stage4.yaml"), str(configs / "stage2.yaml"), configs / request.param
    options, alone = [*strategy(request.param), *FEW], [Life()]
    killed = [Life("in validation", 1), Life(options=(add(MAKE_ROOM),)), Life()]
    lives = [
        (folder / "whole", stage4, [*options, *STEPS], alone),
        (folder / "killed", stage4, [*options, *STEPS], killed),
        (folder / "stage2", stage2, [*options, *STAGE2], alone),
    ]
    if request.param == "zero3":  # of the others see tests/test_killed_smoke.py
        lives += [
            (folder / "whole-epochs", stage4, [*options, *EPOCHS], alone),
            (folder / "killed-epochs", stage4, [*options, *EPOCHS], [Life("backward", 6), Life()]),
        ]
    first, second = live_on_two(lives)
    assert first == second
    return Runs(configs, request.param, {run[0].name: ends for run, ends in zip(lives, first, strict=True)})


@pytest.mark.slow
def test_a_killed_run_of_two_ranks_ends_as_one_that_was_left_alone(runs: Runs) -> None:
    """The second life of the first is told to make room: it ends its step, saves itself and stops, on both ranks."""
    kill, interrupted = -signal.SIGKILL, 130
    assert (runs.statuses["whole"], runs.statuses["killed"]) == ([0], [kill, interrupted, 0])
    assert len((runs["killed"] / "losses.csv").read_text().splitlines()) == 6 + 1
    assert differences(runs["whole"], runs["killed"]) == []
    if "whole-epochs" in runs.statuses:
        assert (runs.statuses["whole-epochs"], runs.statuses["killed-epochs"]) == ([0], [kill, 0])
        assert len((runs["killed-epochs"] / "losses.csv").read_text().splitlines()) == 2 * 5 + 1
        assert differences(runs["whole-epochs"], runs["killed-epochs"]) == []


@pytest.mark.slow
def test_what_is_consolidated_has_the_form_of_a_run_that_was_not_sharded(runs: Runs) -> None:
    """Names in their order, shapes, types and entries are those of one process; what is frozen lies in neither."""
    path = weights_path(str(runs["killed"]))
    assert path == consolidated_path(runs["killed"] / LAST_CHECKPOINT)
    consolidated = torch.load(path, weights_only=True)
    whole = torch.load(alone(runs), weights_only=True)
    assert set(consolidated) - {SAVING_KEY} == set(whole) - {"optimizer_states"}
    described = [
        [(name, tensor.shape, tensor.dtype) for name, tensor in one["state_dict"].items()]
        for one in (consolidated, whole)
    ]
    assert described[0] == described[1]
    assert consolidated["state_dict"]["delta"].dtype == torch.double
    assert consolidated["hyper_parameters"] == whole["hyper_parameters"]
    assert consolidated["lit_avg_left_out"].keys() == whole["lit_avg_left_out"].keys() != set()
    assert set(consolidated["callbacks"]) == set(whole["callbacks"])


def alone(runs: Runs) -> Path:
    """The checkpoint of stage 4 on one process."""
    if not (runs.folder / "alone").exists():
        assert live(runs.folder / "alone", str(runs.folder / "stage4.yaml"), [*STEPS, *FEW], [Life()]) == [0]
    return runs.folder / "alone" / LAST_CHECKPOINT


@pytest.mark.slow
def test_a_sharded_checkpoint_holds_nothing_of_what_is_frozen(runs: Runs) -> None:
    folder = runs["killed"] / LAST_CHECKPOINT
    frozen = 2 * VOCABULARY * 24 * 4  # bytes: embeddings and LM head alone
    assert sum(read_index(folder).files.values()) < frozen
    assert set(read_shared(folder)[WHOLE_KEY]) == {"delta"}


@pytest.mark.slow
def test_what_was_consolidated_is_made_again_where_it_is_gone_or_older(runs: Runs, tmp_path: Path) -> None:
    run = copy_of(runs["killed"], tmp_path)
    recorded = json.loads((run / "result.json").read_text())["checkpoint"]["own"]
    weights_path(str(run)).unlink()
    assert file_sha256(weights_path(str(run))) == recorded  # bit by bit
    os.truncate(weights_path(str(run)), 100)
    assert file_sha256(weights_path(str(run))) == recorded
    index = run / LAST_CHECKPOINT / INDEX
    index.write_text(json.dumps(json.loads(index.read_text()) | {"saving": "another"}))
    assert torch.load(weights_path(str(run)), weights_only=True)[SAVING_KEY] == "another"
    shutil.rmtree(run / LAST_CHECKPOINT)  # which takes much room, once nobody goes on with the run
    assert weights_path(str(run)).is_file()


def copy_of(run: Path, folder: Path) -> Path:
    return shutil.copytree(run, folder / run.name)


def shared(folder: Path) -> Path:
    return max(folder.rglob("*.pt"), key=lambda path: path.stat().st_size)


def flip(folder: Path) -> None:
    """One bit of a tensor."""
    path = shared(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


REFUSED: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
    "cut short": (lambda folder: os.truncate(shared(folder), 100), [], "has 100 bytes, but was saved with"),
    "foreign": (lambda folder: (folder / INDEX).unlink(), [], f"is a folder without {INDEX}"),
    "a bit flipped": (flip, [], "is damaged"),
    "one process": (
        lambda folder: None,
        ["--trainer.strategy", "auto", "--trainer.devices", "1"],
        "but trainer.strategy is one that does not shard",
    ),
}


@pytest.mark.slow
def test_a_fit_that_cannot_go_on_from_a_sharded_checkpoint_says_so_and_leaves_it(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = dict(REFUSED) if runs.name != "zero3" else {}  # which is ZeRO-2's folder but for the number of its files
    if runs.name != "fsdp2":  # which may go on with another number of ranks
        cases["another number"] = (
            lambda folder: None,
            ["--trainer.devices", "1"],
            "saved on 2 ranks, but this fit has 1",
        )
    for name, (spoil, options, reason) in cases.items():
        run = copy_of(runs["killed"], tmp_path / name)
        spoil(run / LAST_CHECKPOINT)
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        command = ["fit", "--config", str(runs.folder / "stage4.yaml"), "--run_root", str(run), "--resume", "auto"]
        assert main([*command, *strategy(runs.name), *STEPS, *options]) == 2, name
        told = capsys.readouterr().err
        assert reason in told, name
        assert str(run / LAST_CHECKPOINT) in told, name
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before, name


@pytest.mark.slow
def test_everybody_else_reads_the_weights_of_a_sharded_run(runs: Runs, tmp_path: Path) -> None:
    """Test, calibrate and consolidate of stage 4; stage 3 and export of stage 2, which left unread layers in."""
    run, stage2 = copy_of(runs["killed"], tmp_path), copy_of(runs["stage2"], tmp_path)
    assert main(["calibrate", "--ckpt", str(run), "--budget", "0.9"]) == 0
    delta = torch.load(weights_path(str(run)), weights_only=True)["state_dict"]["delta"].item()
    config = ["--config", str(runs.folder / "stage4.yaml"), "--run_root", str(run), *strategy(runs.name)]
    assert main(["test", *config, "--trainer.devices", "1", "--data.init_args.test", str(runs.folder / "shards")]) == 0
    tested = torch.load(weights_path(str(run)), weights_only=True)["state_dict"]["delta"].item()
    assert tested == delta
    assert main(["consolidate", str(stage2)]) == 0
    begun = ["--model.init_args.init_from", str(stage2), "--run_root", str(tmp_path / "stage3")]
    assert main(["fit", "--config", str(runs.folder / "stage3.yaml"), *begun, *STAGE2, *FEW]) == 0
    origin = torch.load(tmp_path / "stage3" / LAST_CHECKPOINT, weights_only=True)["lit_avg_begun_from"]
    assert origin["sha256"] == file_sha256(consolidated_path(stage2 / LAST_CHECKPOINT))
    if runs.name == "zero3":
        assert main(["export", "--ckpt", str(stage2), "--out", str(tmp_path / "exported")]) == 0
