import json
from pathlib import Path
from typing import Any

import pytest

from lit_avg.cli import main
from lit_avg.studies.spec.fingerprint import Checked
from tests.tiny_run import write_stage, write_yaml


def answers(tmp_path: Path, *asked: list[str]) -> list[dict[str, Any]]:
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    assert main(["check", str(tmp_path / "asked.json"), "--out", str(tmp_path / "answers.json")]) == 0
    return json.loads((tmp_path / "answers.json").read_text())


def test_configs_that_come_to_the_same_have_the_same_hash_however_they_say_it(tmp_path: Path) -> None:
    stage4 = ["--config", write_stage(tmp_path, "RGLF", init_from="${run_root}/before")]
    overlay = write_yaml(tmp_path / "overlay.yaml", {"model": {"init_args": {"alpha": 0.5}}})
    plain, by_value, by_file, by_default = answers(
        tmp_path,
        stage4,
        [*stage4, "--model.init_args.alpha", "0.5"],
        [*stage4, "--config", overlay],
        [*stage4, "--model.init_args.alpha", "0.1"],
    )
    assert by_value["config"] == by_file["config"] != plain["config"]
    assert by_default["config"] == plain["config"]
    assert Checked.of(plain).policies[:3] == ["router", "fixed 1", "fixed 2"]


def test_what_only_concerns_the_router_leaves_the_feedback_as_it_is(tmp_path: Path) -> None:
    stage3 = ["--config", write_stage(tmp_path, "MultiGranularityTuning")]
    stage4 = ["--config", write_stage(tmp_path, "RGLF", init_from="${run_root}/before")]
    router = [("alpha", "0.5"), ("model.init_args.k", "1"), ("model.init_args.semantics", "{ranking: rank distance}")]
    below = [("model.init_args.pooling", "max"), ("model.init_args.semantics", "release"), ("per_sample", "true")]
    asked = [[*stage4, f"--model.init_args.{name}", value] for name, value in (*router, *below)]
    plain, seed, before, *others = answers(tmp_path, stage4, [*stage4, "--seed_everything", "7"], stage3, *asked)
    assert plain["levels"] == [1, 2, 4, 8, 16]
    assert before["feedback"] is None
    assert seed["config"] != plain["config"]
    assert [answer["feedback"] == plain["feedback"] for answer in (seed, *others)] == [True] * 4 + [False] * 3
    assert plain["config"] not in [answer["config"] for answer in others]


def test_a_mistake_is_an_answer_and_nothing_is_written_or_loaded(tmp_path: Path) -> None:
    stage4 = ["--config", write_stage(tmp_path, "RGLF", init_from="${run_root}/not-yet-there")]
    wrong, narrow, fine = answers(
        tmp_path,
        [*stage4, "--model.init_args.alhpa", "0.5"],
        [*stage4, "--model.init_args.model.init_args.granularities", "{tokens: [3, 16]}"],
        stage4,
    )
    assert "Option 'alhpa' is not accepted" in wrong["error"]
    assert "error" in narrow
    assert fine["processes"] is None  # `devices: auto` takes what it gets
    assert not (tmp_path / "runs").exists()


def test_what_is_shipped_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    recipe, jersey = answers(
        tmp_path,
        ["--config", "experiments/vicuna-7b/stage4.yaml"],
        ["--config", "experiments/jersey/stage4.yaml"],
    )
    assert "error" not in recipe
    assert recipe["processes"] == [8, 1]
    assert jersey["kinds"] == ["number", "jersey", "place", "brightest", "crowd"]
