import csv
import hashlib
import json
import math
import platform
import subprocess
from pathlib import Path

import pytest
import torch
import yaml

from callbacks.results_writer import is_changed, outcomes_csv, questions_digest
from lit_avg.cli import main
from lit_avg.data import Split
from lit_avg.evaluation.outcomes import Outcomes
from lit_avg.visual_tokens.granularity import Granularities
from tests.tiny_run import TinyData, write_stage


def test_one_result_says_what_ran_and_what_came_out(tested_run: Path) -> None:
    result = json.loads((tested_run / "result.json").read_text())
    assert (result["run"], result["stage"], result["seed"], result["steps"]) == ("RGLF", "RGLF", 0, 4)
    assert result["config"]["model"]["init_args"]["alpha"] == 0.1
    assert result["data"] == "0123456789abcdef"
    own = hashlib.sha256((tested_run / "checkpoints" / "last.ckpt").read_bytes()).hexdigest()
    assert result["checkpoint"] == {"own": own, "parent": None}
    keys = sorted(row["key"] for row in csv.DictReader((tested_run / "outcomes.csv").read_text().splitlines()))
    assert result["questions"] == questions_digest(None, keys)
    assert set(result["seconds"]) == {"fit", "test"}
    assert (result["machine"]["host"], result["machine"]["threads"]) == (platform.node(), torch.get_num_threads())
    assert {"val/loss", "val/accuracy@16", "router/accuracy", "oracle/selected/16"} <= set(result["metrics"])
    assert not any("second" in name or name.startswith("test/") for name in result["metrics"])


def test_what_was_asked_depends_on_the_samples_and_on_which_of_them_were_asked_but_not_on_their_order() -> None:
    class Samples(TinyData):
        def __init__(self, digest: str) -> None:
            super().__init__()
            self.digest = digest

        def data_digest(self, split: Split) -> str | None:
            return f"{split} {self.digest}"

    here, there = Samples("here"), Samples("there")
    assert questions_digest(here, ["0/0", "0/1"]) == questions_digest(here, ["0/1", "0/0"])
    asked = [(here, ["0/0"]), (there, ["0/0"]), (here, ["0/1"]), (None, ["0/0"])]
    assert len({questions_digest(data, keys) for data, keys in asked}) == 4


def test_two_runs_with_one_seed_have_the_same_metrics(tested_run: Path, tmp_path: Path) -> None:
    stage4 = write_stage(tmp_path, "RGLF")
    assert main(["fit", "--config", stage4, "--trainer.max_steps", "4", "--trainer.val_check_interval", "2"]) == 0
    assert main(["test", "--config", stage4]) == 0
    results = [folder / "result.json" for folder in (tested_run, tmp_path / "runs" / "RGLF")]
    first, second = (json.loads(path.read_text())["metrics"] for path in results)
    assert first == second


def test_a_fit_begins_a_new_result(tmp_path: Path) -> None:
    stage4, result = write_stage(tmp_path, "RGLF"), tmp_path / "runs" / "RGLF" / "result.json"
    assert main(["fit", "--config", stage4]) == 0
    assert main(["test", "--config", stage4]) == 0
    assert "router/accuracy" in json.loads(result.read_text())["metrics"]
    assert main(["fit", "--config", stage4, "--overwrite"]) == 0
    assert "router/accuracy" not in json.loads(result.read_text())["metrics"]


def test_a_fit_with_nothing_left_to_do_leaves_the_result_as_it_is(tmp_path: Path) -> None:
    stage4, result = write_stage(tmp_path, "RGLF"), tmp_path / "runs" / "RGLF" / "result.json"
    assert main(["fit", "--config", stage4]) == 0
    fitted = json.loads(result.read_text())["metrics"]
    assert main(["test", "--config", stage4]) == 0
    tested = result.read_text()
    assert main(["fit", "--config", stage4, "--resume", "auto"]) == 0
    assert result.read_text() == tested
    result.unlink()  # as where a run is killed before it is written
    assert main(["fit", "--config", stage4, "--resume", "auto"]) == 0
    assert json.loads(result.read_text())["metrics"] == fitted
    assert "val/loss" in fitted


def test_a_run_that_is_fitted_on_keeps_no_test_of_its_earlier_weights(tmp_path: Path) -> None:
    stage4, run = write_stage(tmp_path, "RGLF"), tmp_path / "runs" / "RGLF"
    assert main(["fit", "--config", stage4]) == 0
    assert main(["test", "--config", stage4]) == 0
    rows = (run / "outcomes.csv").read_text()
    assert main(["fit", "--config", stage4, "--resume", "auto", "--trainer.max_steps", "5"]) == 0
    result = json.loads((run / "result.json").read_text())
    assert (result["steps"], result["questions"]) == (5, None)
    assert not [name for name in result["metrics"] if not name.startswith("val/")]
    assert not (run / "outcomes.csv").exists()
    assert (run / "outcomes.step-3.csv").read_text() == rows  # three steps are what it had
    assert main(["test", "--config", stage4]) == 0
    assert (run / "outcomes.csv").is_file()


def test_a_test_of_other_questions_keeps_nothing_of_the_one_before(tmp_path: Path) -> None:
    stage4, result = write_stage(tmp_path, "RGLF"), tmp_path / "runs" / "RGLF" / "result.json"
    assert main(["fit", "--config", stage4]) == 0
    oracle = "[{class_path: lit_avg.routing.policies.OraclePolicy, init_args: {margin: 0.5}}]"
    assert main(["test", "--config", stage4, "--model.init_args.policies", oracle]) == 0
    assert main(["test", "--config", stage4]) == 0
    kept = json.loads(result.read_text())
    assert "oracle 0.5/accuracy" in kept["metrics"]  # it was asked the same
    result.write_text(json.dumps(kept | {"questions": "others"}))
    assert main(["test", "--config", stage4]) == 0
    told = json.loads(result.read_text())
    assert told["questions"] == kept["questions"]
    assert {name for name in kept["metrics"] if name not in told["metrics"]} == {
        name for name in kept["metrics"] if name.startswith("oracle 0.5/")
    }


def test_a_run_for_debugging_leaves_no_result(tmp_path: Path) -> None:
    assert main(["fit", "--config", write_stage(tmp_path, "RGLF"), "--trainer.fast_dev_run", "true"]) == 0
    assert not (tmp_path / "runs" / "RGLF" / "result.json").exists()
    assert not (tmp_path / "runs" / "RGLF" / "checkpoints").exists()


def test_every_question_has_a_row_with_what_happened_at_each_level_and_what_was_chosen() -> None:
    outcomes = Outcomes(
        keys=["7/0", "7/1"],
        kinds=["number", "colour"],
        granularities=Granularities((2, 4)),
        correct=torch.tensor([[False, True], [True, True]]),
        feedback=torch.tensor([[-2.5, -0.5], [-0.25, -0.125]]),
        scores=None,
        visual_tokens=torch.tensor([[5, 14], [5, 14]]),
        text_tokens=torch.tensor([9, 8]),
        tiles=torch.tensor([3, 3]),
        images=["1a6e", "1a6e"],
    )
    chosen = {"oracle": torch.tensor([1, 0])}
    rows = list(csv.reader(outcomes_csv(outcomes, chosen).splitlines()))
    assert ",".join(rows[0]) == (
        "key,kind,image,tiles,text_tokens,correct@2,correct@4,feedback@2,feedback@4,visual_tokens@2,visual_tokens@4,chosen@oracle"
    )
    assert rows[1] == ["7/0", "number", "1a6e", "3", "9", "0", "1", "-2.5", "-0.5", "5", "14", "4"]
    assert rows[2] == ["7/1", "colour", "1a6e", "3", "8", "1", "1", "-0.25", "-0.125", "5", "14", "2"]


@pytest.mark.parametrize("file", ["result.json", "outcomes.csv", "selection.csv"])
def test_nothing_half_written_stays_behind(tested_run: Path, file: str) -> None:
    assert (tested_run / file).is_file()
    assert not [path for path in tested_run.iterdir() if path.name.endswith(".partial")]


def test_the_choices_written_down_give_every_policys_accuracy(tested_run: Path) -> None:
    metrics = json.loads((tested_run / "result.json").read_text())["metrics"]
    questions = list(csv.DictReader((tested_run / "outcomes.csv").open()))
    policies = [name.partition("@")[2] for name in questions[0] if name.startswith("chosen@")]
    assert {"router", "oracle", "random", "coarsest within", "fixed 16"} <= set(policies)
    for policy in policies:
        right = [int(question[f"correct@{question[f'chosen@{policy}']}"]) for question in questions]
        assert sum(right) / len(right) == pytest.approx(metrics[f"{policy}/accuracy"])


def test_a_metric_that_is_no_number_is_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Path(write_stage(tmp_path, "RGLF"))
    text = config.read_text(encoding="utf-8").replace("lit_avg.stages.RGLF", "tests.tiny_run.MeanOfNothing")
    config.write_text(text, encoding="utf-8")
    assert main(["fit", "--config", str(config)]) == 2
    assert "val/mean_of_nothing is nan, which is no result; result.json is not written" in capsys.readouterr().err
    assert not (tmp_path / "runs" / "RGLF" / "result.json").exists()


def test_a_config_may_say_what_json_has_no_word_for(tmp_path: Path) -> None:
    stopping = {"monitor": "val/loss", "stopping_threshold": -math.inf, "patience": 9}
    callback = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": stopping}
    options = [f"--trainer.callbacks+={yaml.safe_dump(callback, default_flow_style=True, width=1000).strip()}"]
    assert main(["fit", "--config", write_stage(tmp_path, "RGLF"), *options]) == 0
    config = json.loads((tmp_path / "runs" / "RGLF" / "result.json").read_text(encoding="utf-8"))["config"]
    assert config["trainer"]["callbacks"][-1]["init_args"]["stopping_threshold"] == "-.inf"


def test_notes_beside_the_code_are_no_change_of_it_but_a_new_module_and_a_changed_file_are(tmp_path: Path) -> None:
    def git(*command: str) -> None:
        named = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *named, *command], cwd=tmp_path, check=True, capture_output=True)

    package, notes = tmp_path / "lit_avg", tmp_path / "notes.txt"
    package.mkdir()
    (package / "model.py").write_text("one")
    for command in (["init"], ["add", "."], ["commit", "-m", "first"]):
        git(*command)
    assert not is_changed(package)
    notes.write_text("three runs are to be done again")
    assert not is_changed(package)
    (package / "new.py").write_text("two")
    assert is_changed(package)
    (package / "new.py").unlink()
    (package / "model.py").write_text("other")
    assert is_changed(package)
