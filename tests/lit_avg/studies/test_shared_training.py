"""Real trainings that share a parent: a row's run finds the stage before it where its config looks for it."""

import json
from pathlib import Path

import pytest
import yaml

from lit_avg import cli
from lit_avg.studies.spec.study import load_study
from tests import stored
from tests.drawn import drawn_shards
from tests.tiny_run import write_stage


@pytest.mark.slow
def test_rows_start_from_the_stage_that_they_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage3 = write_stage(tmp_path, "MultiGranularityTuning")
    stage4 = write_stage(tmp_path, "RGLF", init_from="${run_root}/stage3")
    study = {
        "out": str(tmp_path / "out"),
        "seeds": [0],
        "axes": {"alpha": [0.1, 0.9]},  # 0.1 is the default: the same run as without it
        "runs": {
            "stage3": {"configs": [stage3]},
            "stage4": {"configs": [stage4], "after": ["stage3"], "test": True},
        },
        "rows": {
            "router": {"run": "stage4", "policy": "router"},
            "alpha {alpha}": {"run": "stage4", "policy": "router", "set": {"model.init_args.alpha": "{alpha}"}},
        },
        "columns": ["accuracy"],
        "reference": "router",
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    assert cli.main(["sweep", str(path)]) == 0, capsys.readouterr().out
    assert list(load_study(path).runs) == ["stage3", "stage4", "stage4@alpha=0.9/stage4"]
    runs = tmp_path / "out" / "seed-0"
    results = [json.loads((runs / name / "result.json").read_text()) for name in ("stage4", "stage4@alpha=0.9/stage4")]
    parents = [result["checkpoint"]["parent"] for result in results]
    assert parents[0] == parents[1] is not None
    assert results[0]["metrics"]["val/loss"] != results[1]["metrics"]["val/loss"]


@pytest.mark.slow
def test_routers_are_trained_from_the_store_that_they_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = drawn_shards(tmp_path / "shards", 14, rounds=2)
    stage3 = stored.config(tmp_path, shards, "MultiGranularityTuning", "stage3")
    stage4 = stored.config(tmp_path, shards, "RGLF", "stage4", init_from="${run_root}/stage3", per_sample=True)
    routed = {"run": "stage4", "policy": "router"}
    subset = {"model.init_args.model.init_args.granularities": {"tokens": [1, 4, 16], "step": 4}}
    runs = {
        "stage3": {"configs": [stage3]},
        "feedback": {"configs": [stage4], "after": ["stage3"], "feedback": True},
        "stage4": {"configs": [stage4], "after": ["stage3", "feedback"], "test": True},
        "live": {"configs": [stage4], "after": ["stage3"], "test": True},
    }
    rows: dict[str, object] = {"router": routed, "live": {"run": "live", "policy": "router"}}
    rows |= {"alpha": {**routed, "set": {"model.init_args.alpha": 0.9}}, "subset": {**routed, "set": subset}}
    rows["other LMM"] = {**routed, "set": {"model.init_args.optimization.lr": 0.02}, "stages": ["stage3"]}
    study = {"out": str(tmp_path / "out"), "seeds": [0], "runs": runs, "rows": rows, "columns": ["accuracy"]}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    assert cli.main(["sweep", str(path), "--jobs", "2"]) == 0, capsys.readouterr().out
    assert [run.name for run in load_study(path).runs.values() if run.feedback] == [
        "feedback",
        "stage3@lr=0.02/feedback",
    ]
    folder = tmp_path / "out" / "seed-0"
    of_store, live = (json.loads((folder / run / "result.json").read_text()) for run in ("stage4", "live"))
    assert of_store["metrics"] == live["metrics"]
