from pathlib import Path

import pytest

from lit_avg.cli import main
from tests.tiny_run import write_stage, write_yaml


def described(capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    capsys.readouterr()
    assert main(["describe", *options]) == 0
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_parts_rates_loss_and_granularities_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rates = {"optimization": {"lr": 0.01, "vision_lr": 0.001}, "frozen": ["connector"]}
    lines = described(capsys, "--config", write_stage(tmp_path, "MultiGranularityTuning", **rates))
    assert "MultiGranularityTuning trains: vision encoder, llm" in lines
    assert "loss: cross-entropy of the answer tokens, averaged over all granularities" in lines
    # connector: Linear(16, 24), Linear(24, 24) with biases and the newline token, 408 + 600 + 24
    # shares are of 7,872 + 1,032 + 14,040 = 22,944 parameters
    assert "connector 1,032 4.50% frozen" in lines
    assert "vision encoder 7,872 34.31% 1.0e-03" in lines
    assert "llm 14,040 61.19% 1.0e-02" in lines
    assert "router 4,456 19.42% frozen" in lines
    assert "all 27,400 119.42% 21,912 trained" in lines
    assert "4 2x2 24" in lines  # the global view's 2 x 2, then a plane of 4 x 4 with 4 newlines: 4 + 20
    assert "16 4x4 88" in lines  # 16 + 8 x 9


def test_nothing_is_loaded_or_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage4 = write_stage(tmp_path, "RGLF", init_from="${run_root}/not-yet-there")
    lines = described(capsys, "--config", stage4, "--run_root", str(tmp_path / "elsewhere"))
    assert f"starts from: {tmp_path}/elsewhere/not-yet-there" in lines
    assert not (tmp_path / "elsewhere").exists()
    assert not (tmp_path / "runs").exists()


def test_the_papers_recipe_is_described_without_being_built(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    lines = described(capsys, "--config", "experiments/vicuna-7b/stage4.yaml")
    # 7 D² (attention 4, feed-forward 2, first layer of the MLP 1), D = 4096, and little else: 117 million
    router = next(line.split() for line in lines if line.startswith("router"))
    assert int(router[1].replace(",", "")) == pytest.approx(7 * 4096**2, rel=1e-3)
    assert router[2:] == ["1.66%", "1.0e-03"]  # section 3.2: what the router adds to LLaVA-NeXT
    assert lines[-1].startswith("a step sees 128 samples (4 per device x 8 devices x 4 accumulated)")
    assert lines[-1].endswith("strategy DeepSpeedStrategy, stage 3")


def test_a_recipe_is_described_where_its_strategy_is_not_installed_and_fit_says_how_to_have_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    monkeypatch.setattr("lightning.pytorch.strategies.deepspeed._DEEPSPEED_AVAILABLE", False)
    recipe = ["--config", "experiments/vicuna-7b/stage4.yaml"]
    assert described(capsys, *recipe)[-1].endswith("strategy DeepSpeedStrategy, stage 3")
    monkeypatch.setattr("lit_avg.config.trainer_options.find_spec", lambda _: None)
    for strategy in ([], ["--trainer.strategy", "deepspeed_stage_2"]):
        assert main(["fit", *recipe, *strategy]) == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert told.startswith("lit-avg: trainer.strategy is DeepSpeed's, which is not installed; pip install")


@pytest.mark.parametrize(
    ("stage", "lr", "vision_lr", "samples"),
    [(1, "1.0e-03", "frozen", 256), (2, "2.0e-05", "2.0e-06", 128), (3, "1.0e-05", "2.0e-05", 128)],
)
def test_rates_and_batches_are_those_of_table_5(
    stage: int,
    lr: str,
    vision_lr: str,
    samples: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    lines = described(capsys, "--config", f"experiments/vicuna-7b/stage{stage}.yaml")
    rates = {line.split()[0]: line.split()[-1] for line in lines if line.startswith(("vision", "connector"))}
    assert rates == {"vision": vision_lr, "connector": lr}
    assert lines[-1].startswith(f"a step sees {samples} samples")


def test_what_is_no_stage_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overlay = write_yaml(
        tmp_path / "demo.yaml",
        {"model": {"class_path": "lightning.pytorch.demos.boring_classes.BoringModel"}, "trainer": {"max_steps": 1}},
    )
    data = write_yaml(tmp_path / "data.yaml", {"data": {"class_path": "tests.tiny_run.TinyData"}})
    assert main(["describe", "--config", overlay, "--config", data]) == 2
    assert "BoringModel trains no AvgLlava" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        (
            {"pretrained_parts": {"llm": "lmsys/vicuna-7b-v1.5"}},
            "llm of lmsys/vicuna-7b-v1.5, all else: random weights",
        ),
        ({}, "random weights"),
    ],
)
def test_where_the_weights_are_from_is_told(
    parts: dict[str, object], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"starts from: {told}" in described(capsys, "--config", write_stage(tmp_path, "Pretrain", **parts))
