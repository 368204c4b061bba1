from pathlib import Path

import yaml

from lit_avg.cli import main
from tests.tiny_run import write_stage


def test_a_second_run_with_another_config_keeps_the_first_ones(tmp_path: Path) -> None:
    stage, run = write_stage(tmp_path, "Pretrain"), tmp_path / "runs" / "Pretrain"
    for rate in ("0.01", "0.02", "0.02", "0.03"):
        assert main(["fit", "--config", stage, "--model.init_args.optimization.lr", rate]) == 0
    configs = {path.name: yaml.safe_load(path.read_text()) for path in run.glob("config*.yaml")}
    rates = {name: config["model"]["init_args"]["optimization"]["lr"] for name, config in configs.items()}
    assert rates == {"config.yaml": 0.03, "config.1.yaml": 0.01, "config.2.yaml": 0.02}


def test_a_run_that_goes_on_has_the_same_config(tmp_path: Path) -> None:
    stage, run = write_stage(tmp_path, "Pretrain"), tmp_path / "runs" / "Pretrain"
    assert main(["fit", "--config", stage]) == 0
    assert main(["fit", "--config", stage, "--resume", "auto"]) == 0
    assert [path.name for path in run.glob("config*.yaml")] == ["config.yaml"]


def test_a_tests_config_lies_beside_the_fits(tested_run: Path) -> None:
    assert {path.name for path in tested_run.glob("config*.yaml")} == {"config.yaml", "config.test.yaml"}
