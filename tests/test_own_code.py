"""Code of one's own that YAML names: the guide's example of callbacks as it stands there, policy, metric, objective."""

import csv
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lit_avg.cli import main
from lit_avg.config.saved_config import read_saved
from lit_avg.studies.launchers.config_check import checked_study
from lit_avg.utils.errors import UserError
from lit_avg.utils.yaml_reader import read_yaml
from tests.tiny_run import write_stage

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "experiments" / "README.md"

MINE = """
import lightning as L

class Alarm(L.Callback):
    def __init__(self, above: float) -> None:
        self.above = above

    def on_fit_end(self, trainer, pl_module) -> None:
        print(f"nothing was above {self.above}")
"""


def test_callbacks_of_ones_own_are_added_to_those_of_the_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"```yaml\n(# mine\.yaml.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "mine.yaml").write_text(example)
    (tmp_path / "mine.py").write_text(MINE)
    fit = ["fit", "--config", write_stage(tmp_path, "RGLF"), "--config", str(tmp_path / "mine.yaml")]

    assert "PYTHONPATH=." in example
    assert main(fit) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "mine" in told

    monkeypatch.syspath_prepend(tmp_path)  # as PYTHONPATH does
    assert main(fit) == 0
    assert "nothing was above 3.0" in capsys.readouterr().out
    run = tmp_path / "runs" / "RGLF"
    assert (run / "result.json").is_file()
    named = [callback["class_path"] for callback in read_saved(run / "config.yaml")["trainer"]["callbacks"]]
    of_base = read_yaml(ROOT / "experiments" / "base.yaml")["trainer"]["callbacks"]
    added = ["lightning.pytorch.callbacks.LearningRateMonitor", "mine.Alarm"]
    assert named == [*(callback["class_path"] for callback in of_base), *added]
    sys.modules.pop("mine", None)


def csv_of(outcomes: Path) -> list[dict[str, str]]:
    with outcomes.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A study of a router with the guide's policy, metric and objective, made by `lit-avg sweep`."""
    folder = tmp_path_factory.mktemp("own")
    for language, name in (("python", "choices.py"), ("yaml", "choices.yaml")):
        (example,) = re.findall(rf"```{language}\n(# {name}.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
        (folder / name).write_text(example, encoding="utf-8")
    configs = [write_stage(folder, "RGLF"), str(folder / "choices.yaml")]
    policies = ("router", "alternating", "oracle", "oracle 0.5")
    study = {
        "out": str(folder / "out"),
        "seeds": [0],
        "runs": {"stage4": {"configs": configs, "test": True}},
        "rows": {policy: {"run": "stage4", "policy": policy} for policy in policies},
        "columns": ["accuracy", "confidence", "confidence/number"],
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        assert main(["sweep", str(folder / "study.yaml")]) == 0
        yield folder
    sys.modules.pop("choices", None)


def table_of(studied: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    """Cells of the study's table by row."""
    capsys.readouterr()
    assert main(["table", str(studied / "study.yaml"), "--format", "markdown"]) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


@pytest.mark.slow
def test_a_policy_of_ones_own_is_compared_and_has_a_row(studied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = studied / "out" / "seed-0" / "stage4"
    chosen = [row["chosen@alternating"] for row in csv_of(run / "outcomes.csv")]
    assert chosen == ["2", "1", "2", "1", "2"]  # the second level first, since `first` is 1
    metrics = json.loads((run / "result.json").read_text())["metrics"]
    assert metrics["alternating/selected/1"] + metrics["alternating/selected/2"] == 1
    assert table_of(studied, capsys)["alternating"][1] == f"{100 * metrics['alternating/accuracy']:.1f}"


@pytest.mark.slow
def test_a_metric_of_ones_own_is_a_column_in_its_own_unit(studied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = studied / "out" / "seed-0" / "stage4"
    rows = csv_of(run / "outcomes.csv")
    metrics = json.loads((run / "result.json").read_text())["metrics"]
    feedback = [float(row[f"feedback@{row['chosen@router']}"]) for row in rows]
    numbers = [value for value, row in zip(feedback, rows, strict=True) if row["kind"] == "number"]
    assert metrics["router/confidence"] == pytest.approx(sum(feedback) / len(rows), abs=1e-5)
    assert metrics["router/confidence/number"] == pytest.approx(sum(numbers) / len(numbers), abs=1e-5)
    assert metrics["val/confidence"] == metrics["router/confidence"]  # validated on the questions of the test
    table = table_of(studied, capsys)
    assert table["row"][1:] == ["accuracy", "confidence", "confidence/number"]
    low, high = sorted(("router", "alternating"), key=lambda policy: metrics[f"{policy}/confidence"])
    assert table[high][2] == f"**{metrics[f'{high}/confidence']:.3f}**"
    assert table[low][2] == f"{metrics[f'{low}/confidence']:.3f}"
    assert "*" not in table["oracle"][2] + table["oracle 0.5"][2]  # out of competition


@pytest.mark.slow
def test_an_objective_of_ones_own_is_what_is_trained(studied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = studied / "out" / "seed-0" / "stage4"
    losses = [float(row["loss"]) for row in csv.DictReader((run / "losses.csv").open(encoding="utf-8"))]
    assert 0.5 <= losses[-1] < losses[0] <= 0.5 * 16  # half a price of 1 to 16 tokens, and it falls
    result = json.loads((run / "result.json").read_text())
    assert 0.5 <= result["metrics"]["val/loss"] <= 0.5 * 16
    assert result["config"]["model"]["init_args"]["objective"]["init_args"] == {"price": 0.5}
    configs = [part for name in ("RGLF", "choices") for part in ("--config", str(studied / f"{name}.yaml"))]
    assert main(["describe", *configs]) == 0
    assert "loss: ExpectedTokens" in capsys.readouterr().out


@pytest.mark.slow
def test_a_column_that_nobody_measures_is_told_before_anything_is_run(studied: Path) -> None:
    text = (studied / "study.yaml").read_text().replace("- confidence\n", "- confidense\n")
    (studied / "typo.yaml").write_text(text.replace("/out", "/other"))
    with pytest.raises(UserError, match="no metric 'confidense' in stage4; there are accuracy, confidence, selected"):
        checked_study(studied / "typo.yaml", main)
    assert not (studied / "other" / "seed-0").exists()
