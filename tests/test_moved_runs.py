"""Runs that are moved, copied, damaged or begun twice: what is found again, and what is refused."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree, rmtree

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_avg.cli import main
from lit_avg.commands.offline import finished_run, take_over_trained
from lit_avg.utils.locks import lock_of
from tests.tiny import tiny_model
from tests.tiny_run import write_stage

STAGES = ("Pretrain", "InstructionTuning", "MultiGranularityTuning", "RGLF")
STAGE3, STAGE4 = STAGES[2:]

Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """The message of a command that has to fail as a user's mistake does."""

    def run(*argv: str) -> str:
        capsys.readouterr()
        assert main(argv) == 2
        message = capsys.readouterr().err
        assert len(message.splitlines()) <= 2
        return message

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stages 1 to 4, tested; stage 3 leaves its encoder with stage 2, stage 4 all but its router with stage 3."""
    folder = tmp_path_factory.mktemp("chain")
    for before, stage in zip((None, *STAGES), STAGES, strict=False):
        start: dict[str, object] = {"init_from": f"${{run_root}}/{before}"} if before else {}
        start |= {"frozen": ["vision_encoder"]} if stage == STAGE3 else {}
        assert main(["fit", "--config", write_stage(folder, stage, **start)]) == 0
    assert main(["test", "--config", str(folder / "RGLF.yaml")]) == 0
    return folder


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Iterator[Path]:
    """The folder of those runs where they were made; a test may take it apart, and it is mended afterwards."""
    kept = copytree(made / "runs", tmp_path / "kept" / "out" / "of" / "sight")
    yield made / "runs"
    for path in made.iterdir():
        if path.is_symlink():
            path.unlink()
        elif path.is_dir():
            rmtree(path)
    kept.rename(made / "runs")


def metrics(run: Path) -> dict[str, float]:
    return json.loads((run / "result.json").read_text())["metrics"]


def whole_move(runs: Path) -> dict[str, Path]:
    there = runs.rename(runs.with_name("moved"))
    return {stage: there / stage for stage in STAGES}


def copy_of_what_is_deleted(runs: Path) -> dict[str, Path]:
    there = copytree(runs, runs.with_name("copied"))
    rmtree(runs)
    return {stage: there / stage for stage in STAGES}


def each_to_a_new_name(runs: Path) -> dict[str, Path]:
    return {stage: (runs / stage).rename(runs / f"{number}-was-{stage}") for number, stage in enumerate(STAGES)}


def the_router_alone(runs: Path) -> dict[str, Path]:
    return {stage: runs / stage for stage in STAGES} | {STAGE4: (runs / STAGE4).rename(runs.with_name("router"))}


def the_parent_alone(runs: Path) -> dict[str, Path]:
    return {stage: runs / stage for stage in STAGES} | {STAGE3: (runs / STAGE3).rename(runs.with_name("parent"))}


def another_in_the_parents_place(runs: Path) -> dict[str, Path]:
    """Stage 3 is fitted anew where it was, with another seed; the old one is moved aside."""
    again = ["fit", "--config", str(runs.parent / f"{STAGE3}.yaml"), "--seed_everything", "1", "--overwrite"]
    assert main(again) == 0
    return {stage: runs / stage for stage in STAGES}


def a_link_in_place_of_it(runs: Path) -> dict[str, Path]:
    there = runs.rename(runs.with_name("elsewhere"))
    runs.symlink_to(there)
    return {stage: runs / stage for stage in STAGES}


MOVES = [
    whole_move,
    copy_of_what_is_deleted,
    each_to_a_new_name,
    the_router_alone,
    the_parent_alone,
    another_in_the_parents_place,
    a_link_in_place_of_it,
]


@pytest.mark.parametrize("move", MOVES)
def test_a_run_goes_on_wherever_it_and_those_before_it_lie_now(
    runs: Path, move: Callable[[Path], dict[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = metrics(runs / STAGE4)
    stage4 = move(runs)[STAGE4]
    monkeypatch.chdir(tmp_path)  # nothing depends on where a command is called
    config = ["--config", str(stage4 / "config.yaml")]
    assert main(["test", *config]) == 0
    assert metrics(stage4) == known
    cli, run = finished_run(str(stage4))  # as `calibrate` and `export` do
    take_over_trained(cli.stage, cli.trainer, str(stage4))
    assert run == stage4
    assert main(["fit", *config, "--resume", "auto", "--trainer.max_steps", "5"]) == 0
    assert json.loads((stage4 / "result.json").read_text())["steps"] == 5
    assert main(["test", *config]) == 0  # which reads what was written


def test_a_moved_chain_is_gone_on_with_by_the_files_that_it_was_made_from(runs: Path) -> None:
    there = runs.rename(runs.with_name("moved"))
    moved = ["--run_root", str(there)]
    for stage in reversed(STAGES[1:]):  # what comes before is still what each began from
        config = ["--config", str(runs.parent / f"{stage}.yaml"), *moved]
        assert main(["fit", *config, "--resume", "auto", "--trainer.max_steps", "4"]) == 0
        assert main(["validate", *config]) == 0
    assert not runs.exists()


def test_another_run_than_it_began_from_is_refused_by_its_weights(runs: Path, refused: Refused) -> None:
    config = ["--config", str(runs.parent / "RGLF.yaml")]
    other = copytree(runs / STAGE3, runs / "other")
    assert main(["test", *config, "--model.init_args.init_from", str(other)]) == 0  # the same by another name
    again = ["fit", "--config", str(runs.parent / f"{STAGE3}.yaml"), "--seed_everything", "1", "--overwrite"]
    assert main([*again, "--trainer.default_root_dir", str(other)]) == 0
    message = refused("fit", *config, "--resume", "auto", "--model.init_args.init_from", str(other))
    assert "made with another init_from" in message
    rmtree(runs / STAGE3)
    other.rename(runs / STAGE3)
    rmtree(runs / "other-replaced-1")
    message = refused("test", *config)
    assert f"was trained with another connector than {runs / STAGE3} now holds" in message
    rmtree(runs / STAGE3)
    assert "there is no checkpoint at" in refused("test", *config)


def test_a_whole_checkpoint_needs_none_before_it(runs: Path) -> None:
    rmtree(runs / "Pretrain")
    assert main(["test", "--config", str(runs / "InstructionTuning" / "config.yaml")]) == 0
    parent = json.loads((runs / "InstructionTuning" / "result.json").read_text())["checkpoint"]["parent"]
    assert len(parent) == 64  # still the hash of what it began from


def flip(checkpoint: Path) -> None:
    """Another value for one byte in the midst of the largest tensor."""
    with zipfile.ZipFile(checkpoint) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    content = bytearray(checkpoint.read_bytes())
    header = content[largest.header_offset :][:30]
    name_and_padding = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    content[largest.header_offset + 30 + name_and_padding + largest.file_size // 2] ^= 1
    checkpoint.write_bytes(content)


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize(
    ("damaged", "command"),
    [
        (STAGE3, ["fit", "RGLF", "--overwrite"]),  # the next stage
        (STAGE3, ["test", "RGLF"]),  # what its checkpoint leaves out
        (STAGE4, ["test", "RGLF"]),
        (STAGE4, ["fit", "RGLF", "--resume", "auto"]),
        ("InstructionTuning", ["validate", "RGLF"]),  # what the stage before has left out
    ],
)
def test_a_flipped_byte_is_found_wherever_a_checkpoint_is_read(
    runs: Path, damaged: str, command: list[str], recorded: bool, refused: Refused
) -> None:
    checkpoint = runs / damaged / "checkpoints" / "last.ckpt"
    flip(checkpoint)
    if not recorded:
        (runs / damaged / "result.json").unlink()  # as of a run that was cut off
    verb, stage, *options = command
    message = refused(verb, "--config", str(runs.parent / f"{stage}.yaml"), *options)
    assert f"{checkpoint} is {'not what its run wrote' if recorded else 'damaged'}" in message


def test_a_calibrated_checkpoint_is_known_by_its_new_hash(runs: Path, refused: Refused) -> None:
    config = ["--config", str(runs / STAGE4 / "config.yaml")]
    assert main(["calibrate", "--ckpt", str(runs / STAGE4), "--max-accuracy-loss", "0.1"]) == 0
    assert main(["test", *config]) == 0
    flip(runs / STAGE4 / "checkpoints" / "last.ckpt")
    assert "is not what its run wrote" in refused("test", *config)


def test_a_damaged_result_is_told_where_its_hash_is_wanted(runs: Path, refused: Refused) -> None:
    (runs / STAGE3 / "result.json").write_bytes(b'{"metrics": \xff')
    message = refused("fit", "--config", str(runs.parent / "RGLF.yaml"), "--overwrite")
    assert f"{runs / STAGE3 / 'result.json'} cannot be read" in message


def test_a_stage_begins_from_a_checkpoint_named_from_inside_its_own_folder(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs / STAGE3 / "checkpoints")
    options = ["--model.init_args.init_from", "last.ckpt", "--run_root", str(runs.parent / "new")]
    assert main(["fit", "--config", str(runs.parent / "RGLF.yaml"), *options]) == 0


@pytest.mark.parametrize("cut_off", [False, True])
def test_a_fit_into_a_folder_with_a_run_asks_and_then_moves_it_aside(
    runs: Path, cut_off: bool, refused: Refused
) -> None:
    stage4, config = runs / STAGE4, ["--config", str(runs.parent / "RGLF.yaml")]
    if cut_off:
        (stage4 / "result.json").unlink()
    before = {path.relative_to(stage4): path.read_bytes() for path in stage4.rglob("*") if path.is_file()}
    for folder in ([], ["--trainer.default_root_dir", f"{stage4}/"]):
        message = refused("fit", *config, *folder)
        assert f"{stage4} holds a {'run that did not come to its end' if cut_off else 'finished run'}" in message
        assert "--overwrite" in message
    assert "give one of the two" in refused("fit", *config, "--overwrite", "--resume", "auto")
    assert main(["fit", *config, "--trainer.fast_dev_run", "true"]) == 0  # which leaves nothing behind
    assert {path.relative_to(stage4): path.read_bytes() for path in stage4.rglob("*") if path.is_file()} == before
    for number in (1, 2):
        (runs / f"{STAGE4}-replaced-{number}").touch()  # taken names
    assert main(["fit", *config, "--overwrite"]) == 0
    aside = runs / f"{STAGE4}-replaced-3"
    assert {path.relative_to(aside): path.read_bytes() for path in aside.rglob("*") if path.is_file()} == before
    assert len(list(stage4.glob("events.*"))) == 1
    assert not (stage4 / "outcomes.csv").exists()


def test_a_fit_that_comes_to_nothing_brings_back_the_run_that_it_would_have_replaced(
    runs: Path, refused: Refused
) -> None:
    stage4 = runs / STAGE4
    before = (stage4 / "result.json").read_bytes()
    config = ["fit", "--config", str(runs.parent / "RGLF.yaml"), "--overwrite"]
    assert "there is no checkpoint at nowhere" in refused(*config, "--model.init_args.init_from", "nowhere")
    assert (stage4 / "result.json").read_bytes() == before
    assert not list(runs.glob("*-replaced-*"))


def test_an_attempt_that_came_to_no_checkpoint_leaves_its_curves_in_a_folder_of_their_own(runs: Path) -> None:
    stage4, config = runs / STAGE4, ["--config", str(runs.parent / "RGLF.yaml"), "--resume", "auto"]
    rmtree(stage4 / "checkpoints")
    (stage4 / "result.json").unlink()
    (curves,) = [path.name for path in stage4.glob("events.*")][:1] or [""]
    assert main(["fit", *config]) == 0
    assert (stage4 / "attempt-1" / curves).is_file()
    assert len(list(stage4.glob("events.*"))) == 1


def test_a_run_that_was_killed_at_its_first_saving_begins_again_without_being_asked(runs: Path) -> None:
    stage4 = runs / STAGE4
    (stage4 / "result.json").unlink()
    (stage4 / "checkpoints" / "last.ckpt").rename(stage4 / "checkpoints" / "last.ckpt.partial")
    assert main(["fit", "--config", str(runs.parent / "RGLF.yaml"), "--resume", "auto"]) == 0
    assert [path.name for path in (stage4 / "checkpoints").iterdir()] == ["last.ckpt"]


def test_curves_of_steps_that_are_done_again_are_taken_back(runs: Path) -> None:
    config = [
        "--config",
        str(runs.parent / "RGLF.yaml"),
        "--trainer.log_every_n_steps",
        "1",
        "--trainer.max_steps",
        "4",
    ]
    place = ["--trainer.default_root_dir", str(runs / "cut-off")]
    often = {"class_path": "callbacks.LastCheckpoint", "init_args": {"every_steps": 2}}
    ctrl_c = {"class_path": "tests.tiny_run.Interrupted", "init_args": {"step": 3}}
    added = [f"--trainer.callbacks+={json.dumps(callback)}" for callback in (often, ctrl_c)]
    assert main(["fit", *config, *place, *added]) == 130  # after three steps, with a checkpoint of two
    assert main(["fit", *config, *place, "--resume", "auto"]) == 0
    curves = EventAccumulator(str(runs / "cut-off")).Reload()
    assert [event.step for event in curves.Scalars("train/loss")] == [0, 1, 2, 3]


@pytest.mark.parametrize("room", ["120k", "40k"])
def test_a_full_disk_is_told_by_the_file_that_was_wanted_and_nothing_half_written_stays(
    runs: Path, room: str, refused: Refused
) -> None:
    disk = runs / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount a small file system")
    try:
        message = refused("fit", "--config", str(runs.parent / "Pretrain.yaml"), "--run_root", str(disk))
        assert message.endswith(": No space left on device\n") or "No space left on device (a disk" in message
        assert "temporary" not in message
        assert room == "40k" or f"{disk}/Pretrain/checkpoints/last.ckpt:" in message
        assert not list(disk.rglob("*partial*"))
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_folder_that_holds_runs_of_others_is_never_moved(runs: Path, refused: Refused) -> None:
    (runs / "result.json").write_text("{}")
    config = ["--config", str(runs.parent / "RGLF.yaml"), "--trainer.default_root_dir", str(runs)]
    assert "holds another run" in refused("fit", *config, "--overwrite")
    assert (runs / STAGE3 / "result.json").is_file()


def test_a_second_fit_in_a_folder_is_refused_while_the_first_is_at_work(runs: Path, refused: Refused) -> None:
    lock = lock_of(runs / STAGE4)
    held = (
        "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX); print(flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", held, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        message = refused("fit", "--config", str(runs.parent / "RGLF.yaml"), "--overwrite")
        other.communicate(b"\n")
    assert "is being fitted by another process" in message
    assert not list(runs.glob("*-replaced-*"))


def test_pretrained_parts_are_found_again_when_they_move_with_the_runs(tmp_path: Path) -> None:
    encoder = tmp_path / "runs" / "stage0" / "encoder"
    tiny_model().backbone.hf.model.vision_tower.save_pretrained(encoder)
    parts = {"vision_encoder": str(encoder)}
    assert main(["fit", "--config", write_stage(tmp_path, "Pretrain", pretrained_parts=parts)]) == 0
    begins = write_stage(tmp_path, "InstructionTuning", init_from="${run_root}/Pretrain")
    weights = torch.load(tmp_path / "runs" / "Pretrain" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert not [name for name in weights if "vision_tower" in name]
    there = (tmp_path / "runs").rename(tmp_path / "moved")
    assert main(["fit", "--config", begins, "--run_root", str(there)]) == 0
    assert main(["test", "--config", str(there / "Pretrain" / "config.yaml")]) == 0
    (there / "Pretrain").rename(there / "first")
    assert main(["test", "--config", str(there / "first" / "config.yaml")]) == 0
