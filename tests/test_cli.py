import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import pytest
import torch

from lit_avg.cli import VERBS, main
from lit_avg.config.parser_messages import in_short
from lit_avg.config.saved_config import read_saved
from tests.tiny_run import MODEL, write_stage, write_yaml


@pytest.fixture
def stage3(tmp_path: Path) -> str:
    return write_stage(tmp_path, "MultiGranularityTuning")


@pytest.fixture
def stage4(tmp_path: Path, stage3: str) -> str:
    """Stage 4 behind a stage 3 that has been run."""
    assert main(["fit", "--config", stage3]) == 0
    return write_stage(tmp_path, "RGLF", init_from="${run_root}/MultiGranularityTuning")


def metrics(run: Path) -> dict[str, float]:
    return json.loads((run / "result.json").read_text())["metrics"]


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The message of a command that has to fail like a user's mistake does."""
    capsys.readouterr()
    assert main(argv) == 2
    message = capsys.readouterr().err
    assert message.startswith("lit-avg: ")
    assert len(message.splitlines()) <= 2
    return message


def test_help_names_every_verb() -> None:
    done = subprocess.run([sys.executable, "-m", "lit_avg.cli", "--help"], capture_output=True, text=True, check=True)
    for name, verb in VERBS.items():
        assert [name, verb.summary] in [line.split(maxsplit=1) for line in done.stdout.splitlines()]


def test_help_loads_neither_torch_nor_lightning() -> None:
    code = "import sys; from lit_avg.cli import main; main([]); print({'torch', 'lightning'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_a_misspelt_verb_is_met_with_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no verb fiit; did you mean fit?" in refused(capsys, "fiit")


def test_a_file_that_is_not_there_or_a_folder_is_told_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        refused(capsys, "table", f"{tmp_path}/no.yaml") == f"lit-avg: {tmp_path}/no.yaml: No such file or directory\n"
    )
    assert refused(capsys, "status", str(tmp_path)) == f"lit-avg: {tmp_path}: Is a directory\n"


def test_a_stage_is_fitted_and_tested(stage4: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", stage4]) == 0
    assert main(["test", "--config", stage4]) == 0
    assert {"val/loss", "router/accuracy", "fixed 16/token_share"} <= set(metrics(tmp_path / "runs" / "RGLF"))
    output = capsys.readouterr().out
    assert "RGLF · RGLF trains router" in output
    assert "coarsest within" in output


def test_validate_and_predict_take_the_runs_own_checkpoint(stage3: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no checkpoint at" in refused(capsys, "validate", "--config", stage3)
    assert main(["validate", "--config", stage3, "--resume", "none"]) == 0
    assert main(["fit", "--config", stage3]) == 0
    assert main(["validate", "--config", stage3]) == 0
    assert main(["predict", "--config", stage3]) == 0


def test_interpolation_sees_overlays_and_the_command_line(stage3: str, tmp_path: Path) -> None:
    overlay = write_yaml(tmp_path / "overlay.yaml", {"trainer": {"max_steps": 2}})
    elsewhere = tmp_path / "elsewhere"
    assert main(["fit", "--config", stage3, "--config", overlay, "--run_root", str(elsewhere)]) == 0
    config = read_saved(elsewhere / "MultiGranularityTuning" / "config.yaml")
    assert config["trainer"]["val_check_interval"] == 2  # ${trainer.max_steps} in experiments/base.yaml
    assert config["trainer"]["logger"]["init_args"]["save_dir"] == str(elsewhere / "MultiGranularityTuning")
    assert not (tmp_path / "runs").exists()


def test_a_saved_config_runs_again_and_gives_the_same_metrics(stage3: str, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "MultiGranularityTuning"
    assert main(["fit", "--config", stage3]) == 0
    first, config = metrics(run), (run / "config.yaml").read_text()
    assert main(["fit", "--config", str(run / "config.yaml"), "--overwrite"]) == 0
    assert metrics(run) == first
    assert (run / "config.yaml").read_text() == config


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    stage3: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    four_steps = ["fit", "--config", stage3, "--trainer.max_steps", "4", "--trainer.val_check_interval", "2"]
    assert main([*four_steps, "--run_root", str(tmp_path / "whole")]) == 0
    ctrl_c = {"class_path": "tests.tiny_run.Interrupted", "init_args": {"step": 2}}
    interrupting = write_yaml(tmp_path / "interrupting.yaml", {"trainer": {"callbacks+": [ctrl_c]}})
    capsys.readouterr()
    assert main([*four_steps, "--config", interrupting]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "lit-avg: interrupted"
    assert not (tmp_path / "runs" / "MultiGranularityTuning" / "result.json").exists()
    assert main([*four_steps, "--resume", "auto"]) == 0
    assert "fit 1/4" not in capsys.readouterr().out
    runs = [tmp_path / root / "MultiGranularityTuning" for root in ("runs", "whole")]
    assert metrics(runs[0]) == metrics(runs[1])
    weights = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in runs]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_checkpoint_of_another_stage_or_with_other_hyperparameters_is_refused(
    stage4: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage3_checkpoint = str(tmp_path / "runs" / "MultiGranularityTuning" / "checkpoints" / "last.ckpt")
    message = refused(capsys, "fit", "--config", stage4, "--ckpt_path", stage3_checkpoint)
    assert "belongs to lit_avg.stages.MultiGranularityTuning, but the config runs lit_avg.stages.RGLF" in message
    assert main(["fit", "--config", stage4]) == 0
    changed = ["--model.init_args.optimization.lr", "0.5", "--model.init_args.alpha", "0"]
    message = refused(capsys, "fit", "--config", stage4, "--resume", "auto", *changed)
    assert "alpha: 0.1 -> 0.0, optimization.lr: 0.01 -> 0.5" in message
    config = ["--config", stage4]
    assert "cannot be read as a checkpoint" in refused(capsys, "test", *config, "--ckpt_path", stage4)
    assert "there is no checkpoint at nowhere" in refused(capsys, "test", *config, "--ckpt_path", "nowhere")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.init_args.alhpa", "1"], "Option 'alhpa' is not accepted"),
        (["--model.init_args.frozen", "x"], "frozen"),
        (["--trainer.maxsteps", "1"], "trainer.maxsteps"),
        (["--resume", "maybe"], "resume: expected none | auto, but got maybe"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--model.init_args.model.init_args.granularities.tokens", "[4,16]"], "16 is followed by 4"),
        (["--model.init_args.model.init_args.k", "9"], "k = 9 tokens, but the router was built for 4"),
        (["--model.init_args.init_from", "nowhere"], "there is no checkpoint at nowhere"),
        (["--run_root", "/proc/nowhere"], "/proc/nowhere"),
        (["--trainer.max_steps", "-1"], "trainer.max_steps is -1, so that trainer.val_check_interval must say"),
    ],
)
def test_a_mistake_on_the_command_line_is_told_in_a_line_or_two(
    options: list[str], message: str, stage3: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, "fit", "--config", stage3, *options)


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("optimization", "optimisation", "Option 'optimisation.lr' is not accepted"),
        ("max_steps", "maxsteps", "trainer.maxsteps"),
        ("lr: 0.01", "lr: fast", "model.optimization.lr: expected a number, but got fast"),
        ("model.yaml", "modell.yaml", "there is no file modell.yaml"),
        ("${run_root}", "${runroot}", "'..runroot' not found"),
        ("tests.tiny_run.TinyData", "tests.tiny_run.TinyDate", "has no attribute 'TinyDate'"),
        ("trainer:", "trainer: [", "no valid YAML"),
    ],
)
def test_a_mistake_in_a_config_is_told_with_the_files_name(
    right: str, wrong: str, message: str, stage3: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "wrong.yaml"
    config.write_text(Path(stage3).read_text().replace(right, wrong))
    told = refused(capsys, "fit", "--config", str(config))
    assert message in told
    assert "wrong.yaml" in told


def test_an_unknown_key_in_a_nested_file_is_named(
    stage3: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_yaml(tmp_path / "model.yaml", {**MODEL, "init_args": {**MODEL["init_args"], "kk": 4}})
    assert "Option 'kk' is not accepted" in refused(capsys, "fit", "--config", stage3)


def test_a_bug_keeps_its_traceback(stage3: str) -> None:
    with pytest.raises(TypeError, match="unsupported operand"):  # TinyData adds its seed to a number
        main(["fit", "--config", stage3, "--data", "tests.tiny_run.BuggyData"])


def raising(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `lit-avg table` raise an error."""

    def table(argv: list[str]) -> int:
        raise error

    monkeypatch.setattr("lit_avg.commands.table.main", table)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, os.strerror(errno.EMFILE), "a.tar"),
        OSError(errno.ENFILE, os.strerror(errno.ENFILE)),
        OSError(errno.EIO, os.strerror(errno.EIO), "a.tar"),
        OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)),
        ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)),
        TimeoutError("timed out"),
        URLError("nobody there"),
        PermissionError(errno.EPERM, os.strerror(errno.EPERM)),  # of what, nobody knows
        ChildProcessError(errno.ECHILD, os.strerror(errno.ECHILD)),
    ],
)
def test_a_fault_of_the_machine_keeps_its_traceback(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(error, monkeypatch)
    with pytest.raises(type(error)):
        main(["table"])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a"), "a: No such file or directory"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "a: Permission denied"),
        (OSError(errno.EROFS, "Read-only file system", "a"), "a: Read-only file system"),
        (OSError(errno.ENOSPC, "No space left on device", "/tmp/x", None, "a"), "a: No space left on device"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device (a disk that is written to, "),
        (OSError("no tokenizer of\nthat name"), "no tokenizer of that name"),  # as transformers says it
        (FileNotFoundError("there is no a"), "there is no a"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_in_words(
    error: OSError, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(error, monkeypatch)
    assert refused(capsys, "table").startswith(f"lit-avg: {message}")


def test_a_reader_that_has_seen_enough_ends_the_command_without_a_word(tmp_path: Path) -> None:
    code = "import sys; from lit_avg import cli; cli.help_text = lambda: 'line\\n' * 100_000; sys.exit(cli.main([]))"
    command = f'"{sys.executable}" -c "{code}" | head -n 1; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["line", "141"]
    assert done.stderr == ""


def test_a_message_out_of_a_data_loaders_worker_loses_the_workers_traceback(
    stage3: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, "fit", "--config", stage3, "--data", "tests.tiny_run.DataWithABadSample")
    assert message == "lit-avg: sample 000000007 cannot be decoded; leave it out\n"


def test_jsonargparses_pages_are_cut_to_keys_and_reason() -> None:
    page = """Parser key "model":
      Does not validate against any of the Union subtypes
      Subtypes: [<class 'LightningModule'>, <class 'NoneType'>]
      Errors:
        - Parser key "alpha":
            Expected a <class 'float'>. Got value: x
        - Expected a <class 'NoneType'>
      Given value type: <class 'dict'>"""
    assert in_short(page) == "model.alpha: expected a number, but got x"
