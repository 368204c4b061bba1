"""What is no number is no result: neither a mean nor the best, in no table, figure, interval or comparison."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from lit_avg.cli import main
from lit_avg.studies.report.numbers import FILE, bad_metric, bad_outcome, number
from lit_avg.studies.report.results import collect, finished_results
from lit_avg.studies.report.table import sheet_of
from lit_avg.studies.runs import run_record as records
from lit_avg.studies.spec.columns import kinds_in_order
from lit_avg.studies.spec.study import Study
from lit_avg.utils.errors import UserError
from tests.lit_avg.studies.stored import stored_study

Change = Callable[[Path], None]


def metric(value: object, name: str = "router/accuracy") -> Change:
    """Make a stored metric something else."""

    def change(run: Path) -> None:
        path = run / "result.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        content["metrics"][name] = value
        path.write_text(json.dumps(content), encoding="utf-8")

    return change


def outcome(value: str, column: str = "score@16") -> Change:
    """Make what the seventh question has in a column something else."""

    def change(run: Path) -> None:
        path = run / "outcomes.csv"
        lines = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
        lines[7][lines[0].index(column)] = value
        path.write_text("".join(",".join(line) + "\n" for line in lines), encoding="utf-8")

    return change


BAD = {
    "a NaN": metric(math.nan),
    "a null": metric(None),
    "an infinity": metric(math.inf),
    "a text": metric("0.9"),
    "a loss that is none": metric(None, "val/loss"),
    "a NaN among the scores": outcome("nan"),
    "an infinity among the scores": outcome("-inf"),
    "a missing score": outcome(""),
    "a NaN among the feedback": outcome("nan", "feedback@4"),
    "a missing choice": outcome("", "chosen@router"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_run_with_what_is_no_number_is_shown_as_no_result_and_counts_nowhere(name: str, tmp_path: Path) -> None:
    study = stored_study(tmp_path)
    good = collect(study).rows[0].samples["accuracy"]
    BAD[name](study.out / "seed-1" / "stage4")
    sheet = sheet_of(study)
    router = sheet.lines[0]
    assert router.count == "2 of 3"
    assert router.row.samples["accuracy"].values == (good.values[0], good.values[2])
    (note,) = [note for note in sheet.notes if note.startswith("no result, and in no mean: stage4, seed 1 (")]
    assert sorted(finished_results(study)["stage4"]) == [0, 2]
    assert "plain" not in note


def test_a_row_all_of_whose_runs_are_none_says_so_and_is_never_the_best(tmp_path: Path) -> None:
    study = stored_study(tmp_path)
    for seed in study.seeds:
        metric(math.nan)(study.out / f"seed-{seed}" / "stage4")
    sheet = sheet_of(study)
    lines = {line.name: line for line in sheet.lines}
    assert lines["router"].cells[0].said == lines["fixed 64"].cells[0].said == "no result"
    assert lines["router"].count == "0 of 3"
    assert not [cell for line in sheet.lines if line.name != "plain router" for cell in line.cells if cell.best]
    assert main(["table", str(study.path)]) == 0


def test_comparing_with_what_is_no_number_shows_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = stored_study(tmp_path)
    runs = [str(study.out / "seed-0" / name) for name in ("stage4", "plain")]
    outcome("nan")(Path(runs[1]))
    assert main(["compare", *runs]) == 0
    told = capsys.readouterr().out
    assert "plain has no result: score@16 of question 00006/0 is nan in outcomes.csv" in told
    assert "router/accuracy" not in told


def looked_through(study: Study) -> dict[str, object]:
    sheet_of(study)
    return json.loads((study.out / FILE).read_text(encoding="utf-8"))


def test_outcomes_are_looked_through_once_and_again_when_they_change(tmp_path: Path) -> None:
    study = stored_study(tmp_path)
    before = looked_through(study)
    assert len(before) == 6
    kept = {name: [found[0], "said before"] for name, found in before.items()}  # pyright: ignore[reportIndexIssue, reportUnknownVariableType]
    (study.out / FILE).write_text(json.dumps(kept), encoding="utf-8")
    assert {origin.problem for row in collect(study).rows for origin in row.origins} == {"said before"}
    outcome("nan")(study.out / "seed-0" / "plain")
    assert "score@16" in str(looked_through(study)["seed-0/plain/outcomes.csv"])
    (study.out / FILE).write_text("cut sho", encoding="utf-8")
    assert looked_through(study)["seed-1/plain/outcomes.csv"] == before["seed-1/plain/outcomes.csv"]


@pytest.mark.parametrize("name", ["banana, inf", "nan", "information"])
def test_names_that_look_like_no_numbers_are_names(name: str, tmp_path: Path) -> None:
    path = tmp_path / "outcomes.csv"
    path.write_text(f'key,kind,image,tiles,score@4\n"{name}","{name}","{name}",3,-0.5\n', encoding="utf-8")
    assert bad_outcome(path) is None


def test_outcomes_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.csv"
    path.write_bytes(b"key,kind\nnan\xff,\xfe\n")
    with pytest.raises(UserError, match=r"outcomes\.csv is not what a test writes"):
        bad_outcome(path)


def test_only_finite_numbers_are_numbers() -> None:
    assert [number(value) for value in (0, 0.5, -1)] == [0, 0.5, -1]
    assert [number(value) for value in (math.nan, math.inf, None, "1", True, [1])] == [None] * 6
    assert bad_metric({"a": 1, "b": None}) == "b is null"
    assert bad_metric("none") == 'its metrics are "none"'
    assert bad_metric({}) is None


def test_kinds_stand_in_figures_as_the_studys_columns_have_them() -> None:
    columns = ["accuracy", "accuracy/place", "token_share", "accuracy/number"]
    assert kinds_in_order(columns, ["crowd", "number", "place", "board"]) == ["place", "number", "board", "crowd"]


def test_a_table_reads_each_result_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, study = list[Path](), stored_study(tmp_path)
    plainly = records.read_entries
    records._read_proof.cache_clear()  # pyright: ignore[reportPrivateUsage]  as in a new process
    monkeypatch.setattr(records, "read_entries", lambda path, *needed: read.append(path) or plainly(path, *needed))

    collect(study)

    assert read
    assert len(read) == len(set(read))
