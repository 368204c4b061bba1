import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_avg.cli import main
from lit_avg.config.saved_config import as_saved, read_saved
from tests.tiny_run import write_stage


def test_a_run_that_goes_on_with_another_config_keeps_the_first_ones(tmp_path: Path) -> None:
    stage, run = write_stage(tmp_path, "Pretrain"), tmp_path / "runs" / "Pretrain"
    for steps in ("1", "2", "2", "3"):
        assert main(["fit", "--config", stage, "--resume", "auto", "--trainer.max_steps", steps]) == 0
    configs = {path.name: yaml.safe_load(path.read_text()) for path in run.glob("config*.yaml")}
    steps = {name: config["trainer"]["max_steps"] for name, config in configs.items()}
    assert steps == {"config.yaml": 3, "config.1.yaml": 1, "config.2.yaml": 2}


def test_what_was_derived_in_the_files_stays_derived(tmp_path: Path) -> None:
    stage, run = write_stage(tmp_path, "RGLF"), tmp_path / "runs" / "RGLF"
    assert main(["fit", "--config", stage]) == 0
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["run_root"] == str(tmp_path / "runs")
    trainer = config["trainer"]
    assert trainer["default_root_dir"] == "${run_root}/RGLF"
    assert trainer["logger"]["init_args"]["save_dir"] == "${trainer.default_root_dir}"
    assert trainer["val_check_interval"] == "${trainer.max_steps}"  # as experiments/base.yaml says
    whole = json.loads((run / "result.json").read_text())["config"]
    assert whole["trainer"]["val_check_interval"] == 3
    assert whole["trainer"]["logger"]["init_args"]["save_dir"] == str(run)


@pytest.mark.parametrize("form", [["--trainer.default_root_dir", "{}/new"], ["--run_root", "{}"]])
def test_a_shorter_run_of_a_saved_config_is_validated_and_leaves_the_first_one_alone(
    tmp_path: Path, form: list[str]
) -> None:
    stage, run = write_stage(tmp_path, "RGLF"), tmp_path / "runs" / "RGLF"
    assert main(["fit", "--config", stage]) == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    place = [part.format(tmp_path / "elsewhere") for part in form]
    assert main(["fit", "--config", str(run / "config.yaml"), "--trainer.max_steps", "2", *place]) == 0
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    new = tmp_path / "elsewhere" / ("new" if "new" in form[1] else "RGLF")
    assert list(new.glob("events.*"))
    result = json.loads((new / "result.json").read_text())
    assert result["steps"] == 2
    assert "val/loss" in result["metrics"]  # validated at its own last step, not at the first run's


@pytest.mark.parametrize(
    ("config", "unresolved", "saved"),
    [
        ({"a": 3, "b": 3}, {"a": 3, "b": "${.a}"}, {"a": 3, "b": "${a}"}),
        ({"a": 3, "b": [{"c": 3}]}, {"a": 3, "b": [{"c": "${...a}"}]}, {"a": 3, "b": [{"c": "${a}"}]}),
        ({"a": "x"}, {"a": "${oc.env:HOME}"}, {"a": "x"}),  # what the machine said then
        ({"a": 3, "b": 4}, {"a": 3, "b": "${.a}"}, {"a": 3, "b": 4}),  # changed since it was resolved
        ({"run_root": "r", "a": "r/b", "c": "rr/d"}, {}, {"run_root": "r", "a": "${run_root}/b", "c": "rr/d"}),
        ({"run_root": "r/", "a": "r/b"}, {}, {"run_root": "r/", "a": "r/b"}),  # "r//b" would be another text
        ({"run_root": "", "a": "/b"}, {}, {"run_root": "", "a": "/b"}),
    ],
)
def test_a_saved_config_says_the_same_as_the_whole_one(
    config: dict[str, Any], unresolved: dict[str, Any], saved: dict[str, Any], tmp_path: Path
) -> None:
    assert as_saved(config, unresolved) == saved
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved))
    assert read_saved(tmp_path / "config.yaml") == config


def test_a_run_that_goes_on_has_the_same_config(tmp_path: Path) -> None:
    stage, run = write_stage(tmp_path, "Pretrain"), tmp_path / "runs" / "Pretrain"
    assert main(["fit", "--config", stage]) == 0
    assert main(["fit", "--config", stage, "--resume", "auto"]) == 0
    assert [path.name for path in run.glob("config*.yaml")] == ["config.yaml"]


def test_a_tests_config_lies_beside_the_fits(tested_run: Path) -> None:
    assert {path.name for path in tested_run.glob("config*.yaml")} == {"config.yaml", "config.test.yaml"}
