"""The quick start itself, on few images and for few steps: real runs, from stage 0 to the table."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_avg import cli
from lit_avg.studies.runs.plan import plan
from lit_avg.studies.spec.study import load_study

QUICKSTART = Path(__file__).parents[3] / "experiments" / "studies" / "quickstart.yaml"

TINY = {
    "stage0-encoder": {"images_train": 8, "images_val": 4, "batch_size": 4},
    "stage0-llm": {"scenes_train": 8, "scenes_val": 4, "batch_size": 4},
    "others": {"images_train": 12, "images_val": 6, "images_test": 6, "batch_size": 4},
}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("LIT_AVG_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def tiny_quickstart(folder: Path) -> Path:
    """The shipped study, each of its runs with one more config that makes it short."""
    study = yaml.safe_load(QUICKSTART.read_text()) | {"out": str(folder / "out")}
    for name, run in study["runs"].items():
        overlay = folder / f"{name}.yaml"
        data = TINY.get(name, TINY["others"])
        overlay.write_text(
            yaml.safe_dump({"trainer": {"max_steps": 4, "val_check_interval": 2}, "data": {"init_args": data}})
        )
        run["configs"] = [str(QUICKSTART.parent / config) for config in run["configs"]] + [str(overlay)]
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


def metrics(study: Path) -> dict[str, Any]:
    runs = plan(load_study(study))
    return {run.name: json.loads((run.directory / "result.json").read_text())["metrics"] for run in runs}


@pytest.mark.slow
def test_the_quick_start_ends_in_a_full_table_and_gives_the_same_numbers_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = (tmp_path / name for name in ("first", "second"))
    for folder, jobs in ((first, "2"), (second, "1")):
        folder.mkdir()
        assert cli.main(["sweep", str(tiny_quickstart(folder)), "--jobs", jobs]) == 0, capfd.readouterr().out
    rows = list(csv.DictReader((first / "out" / "table.csv").open()))
    assert [row["row"] for row in rows] == [row.name for row in load_study(QUICKSTART).rows]
    assert {row["n"] for row in rows} == {"1"}
    empty = {(row["row"], name) for row in rows for name, cell in row.items() if not cell and ":sd" not in name}
    compared = ("difference", "difference:low", "difference:high", "token speed-up")
    assert empty == {("fixed 64", name) for name in compared}  # the reference row
    assert [float(row["token_share"]) for row in rows if row["row"] == "fixed 64"] == [1.0]
    assert metrics(first / "tiny.yaml") == metrics(second / "tiny.yaml")

    capfd.readouterr()
    assert cli.main(["sweep", str(first / "tiny.yaml")]) == 0
    said = capfd.readouterr().out
    assert "7 of 7 runs were done before" in said
    assert "coarsest within" in said
