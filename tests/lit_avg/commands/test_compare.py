import json
import re
from pathlib import Path

import pytest

from lit_avg import cli
from lit_avg.studies.runs.plan import plan
from lit_avg.studies.spec.study import Study
from tests.lit_avg.studies.stored import stored_study


def compared(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[list[str]]:
    """The printed lines, cell by cell."""
    capsys.readouterr()
    assert cli.main(["compare", *arguments]) == 0
    return [re.split(r" {2,}", line.strip()) for line in capsys.readouterr().out.splitlines() if line.strip()]


def folder(study: Study, name: str, seed: int) -> str:
    return str(next(run.directory for run in plan(study) if (run.name, run.seed) == (name, seed)))


def change(run: str, **entries: object) -> None:
    path = Path(run) / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_what_differs_is_told_by_dotted_name_and_what_does_not_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = stored_study(tmp_path)
    one, other = folder(study, "stage4", 0), folder(study, "plain", 0)
    config = {"model": {"class_path": "lit_avg.stages.RGLF", "init_args": {"alpha": 1.0, "callbacks": [{"k": 1}]}}}
    change(other, config=config, commit="fedcba", versions={"python": "3.11.7", "torch": "2.14.0"}, seed=5)
    change(other, machine={"host": "candle", "threads": 1}, dirty=True, data="0ther")
    lines = compared(capsys, one, other)
    for line in (
        ["model.init_args.alpha", "0.1", "1.0"],
        ["model.init_args.callbacks.0.k", "–", "1"],
        ["commit", "0123456789abcdef", "fedcba"],
        ["changes since the commit", "false", "true"],
        ["versions.torch", "2.13.0", "2.14.0"],
        ["machine.host", "lamp", "candle"],
        ["seed", "0", "5"],
        ["data", "da7ada7ada7ada7a", "0ther"],
    ):
        assert line in lines
    names = [line[0] for line in lines]
    assert not {"model.class_path", "versions.python", "machine.threads", "steps", "seed_everything"} & set(names)


def test_metrics_stand_side_by_side_with_the_interval_of_their_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = stored_study(tmp_path)
    lines = compared(capsys, folder(study, "stage4", 0), folder(study, "plain", 1))
    by_name = {line[0]: line[1:] for line in lines}
    first, second, difference, interval = by_name["router/accuracy"]
    assert float(second) - float(first) == pytest.approx(float(difference), abs=1e-4)
    low, high = (float(end) for end in interval.strip("[]").split(", "))
    assert low < float(difference) < high
    assert by_name["val/loss"] == ["1.5000", "2.5000", "+1.0000"]
    assert "router/selected/64" not in by_name
    every = compared(capsys, folder(study, "stage4", 0), folder(study, "plain", 1), "--all")
    assert "router/selected/64" in {line[0] for line in every}


def test_a_metric_that_one_run_has_not_has_no_interval_whatever_outcomes_lie_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = stored_study(tmp_path)
    one, other = folder(study, "stage4", 0), folder(study, "plain", 1)
    change(other, metrics={"val/loss": 2.5})  # fitted on since it was tested
    by_name = {line[0]: line[1:] for line in compared(capsys, one, other)}
    assert by_name["router/accuracy"][1:] == ["–", "–"]


def test_a_run_does_not_differ_from_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder(stored_study(tmp_path), "stage4", 0)
    lines = compared(capsys, run, run)
    assert lines[:3] == [["config: the same"], ["environment: the same"], ["made of: the same"]]
    assert [line[3:] for line in lines if line[0] == "router/accuracy"] == [["+0.0000", "[+0.0000, +0.0000]"]]


def test_rows_of_a_study_are_compared_by_their_policies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = stored_study(tmp_path)
    lines = compared(capsys, "--study", str(study.path), "router", "fixed 4:1")
    by_name = {line[0]: line[1:] for line in lines}
    assert by_name["policy"] == ["router", "fixed 4"]
    assert by_name["seed"] == ["0", "1"]
    assert by_name["tokens_per_tile"][1] == "4.0000"
    assert "[" in by_name["accuracy"][3]
    by_run = compared(capsys, "--study", str(study.path), "stage4", "plain:2")
    assert "fixed 4/accuracy" in {line[0] for line in by_run}


def test_outcomes_that_cannot_be_paired_give_no_interval_and_a_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = stored_study(tmp_path)
    one, other = folder(study, "stage4", 0), folder(study, "plain", 0)
    (Path(other) / "outcomes.csv").unlink()
    lines = compared(capsys, one, other)
    assert all(len(line) == 4 for line in lines if line[0].endswith("/accuracy"))
    assert [line for line in lines if line[0].startswith("no interval: the two outcomes.csv do not say")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{out}", "{out}"], "has no result.json; give the folder of a finished run, or --study"),
        (["--study", "{study}", "router", "stage4"], "name two runs or two rows"),
        (["--study", "{study}", "ruoter", "router"], "has no run ruoter; did you mean router?"),
        (["--study", "{study}", "router:7", "router"], "has no seed 7; its seeds are 0, 1, 2"),
    ],
)
def test_what_cannot_be_compared_is_told(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = stored_study(tmp_path)
    assert cli.main(["compare", *(part.format(out=study.out, study=study.path) for part in arguments)]) == 2
    assert message in capsys.readouterr().err
