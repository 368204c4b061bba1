import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lit_avg.studies.report.intervals import FILE, Interval, intervals
from lit_avg.studies.report.results import collect
from lit_avg.studies.report.table import sheet_of
from lit_avg.studies.runs.plan import plan
from lit_avg.studies.spec.study import Study
from lit_avg.utils.errors import UserError
from tests.lit_avg.studies.stored import finish, stored_study

ROWS = {
    "plain router": {"run": "plain", "policy": "router"},
    "fixed 64": {"run": "stage4", "policy": "fixed 64"},
}


def found(study: Study) -> dict[str, Interval]:
    return intervals(collect(study))


def test_every_row_but_the_reference_has_an_interval_around_its_difference(tmp_path: Path) -> None:
    table = collect(stored_study(tmp_path))
    known = intervals(table)
    assert set(known) == {"router", "fixed 4", "oracle", "plain router"}
    for row in table.rows:
        if row.name in known:
            low, high, mean = known[row.name].low, known[row.name].high, row.difference.mean
            assert low is not None
            assert high is not None
            assert mean is not None
            assert low < mean < high


def test_a_row_with_the_answers_of_the_reference_has_no_width(tmp_path: Path) -> None:
    rows = {name: {"run": "stage4", "policy": "fixed 64"} for name in ("one", "other")}
    assert found(stored_study(tmp_path, rows=rows, reference="one")) == {"other": Interval(0.0, 0.0)}


def test_the_order_of_rows_seeds_and_questions_does_not_matter(tmp_path: Path) -> None:
    study = stored_study(tmp_path)
    before = found(study)
    (study.out / FILE).unlink()
    outcomes = study.out / "seed-1" / "plain" / "outcomes.csv"
    head, *lines = outcomes.read_text().splitlines()
    outcomes.write_text("\n".join([head, *reversed(lines)]) + "\n")
    assert found(study) == before
    (tmp_path / "turned").mkdir()
    rows = {row.name: {"run": row.run, "policy": row.policy} for row in reversed(study.rows)}
    turned = stored_study(tmp_path / "turned", rows=rows)
    assert found(turned) == before


def test_one_kind_of_questions_has_an_interval_of_its_own(tmp_path: Path) -> None:
    both, one = (
        found(stored_study(tmp_path, columns=[column], rows=ROWS))["plain router"]
        for column in ("accuracy", "accuracy/place")
    )
    assert one != both
    assert one.why_not is None


def test_intervals_are_kept_until_the_outcomes_change(tmp_path: Path) -> None:
    study = stored_study(tmp_path)
    before = found(study)
    kept = json.loads((study.out / FILE).read_text())
    assert len(kept) == len(before)
    changed = {key: entry | {"high": 0.75} for key, entry in kept.items()}
    (study.out / FILE).write_text(json.dumps(changed))
    assert {interval.high for interval in found(study).values()} == {0.75}  # read, not computed
    for run in plan(study):
        if run.name == "plain":
            finish(run, salt=8)  # tested anew
    after = found(study)
    assert after["router"].high == 0.75
    assert after["plain router"].high != 0.75
    (study.out / FILE).write_text("cut sho")
    assert found(study)["router"] == before["router"]


@pytest.mark.parametrize(
    ("column", "reason"), [("token_share", "is no matter of right and wrong"), ("accuracy", "does not say what was")]
)
def test_where_there_is_no_interval_the_table_says_why(column: str, reason: str, tmp_path: Path) -> None:
    study = stored_study(tmp_path, columns=[column], rows=ROWS)
    if column == "accuracy":
        (study.out / "seed-0" / "plain" / "outcomes.csv").unlink()
    sheet = sheet_of(study)
    assert sheet.lines[0].cells[-2].ends is None
    assert [note for note in sheet.notes if note.startswith("no interval") and reason in note]


def test_runs_tested_on_other_questions_are_not_paired(tmp_path: Path) -> None:
    study = stored_study(tmp_path)
    outcomes = study.out / "seed-0" / "plain" / "outcomes.csv"
    outcomes.write_text(outcomes.read_text().replace("00007/0,", "00007/other,"))  # one is enough
    assert found(study)["plain router"].why_not == "runs of both rows were tested on different questions"


@pytest.mark.parametrize(
    "broken", [lambda text: text[:-20], lambda text: "", lambda text: text.replace("correct@4", "c4")]
)
def test_outcomes_that_were_cut_short_or_garbled_are_named(broken: Callable[[str], str], tmp_path: Path) -> None:
    study = stored_study(tmp_path)
    outcomes = study.out / "seed-0" / "plain" / "outcomes.csv"
    outcomes.write_text(broken(outcomes.read_text()))
    with pytest.raises(UserError, match=r"plain/outcomes\.csv is not what a test writes; test again"):
        found(study)


def test_kept_intervals_are_read_without_loading_what_takes_long(tmp_path: Path) -> None:
    study = stored_study(tmp_path)
    found(study)
    code = "import sys; from lit_avg.cli import main; assert main(['table', sys.argv[1]]) == 0;"
    code += "sys.exit(' '.join({'torch', 'numpy', 'matplotlib', 'jinja2', 'rich'} & set(sys.modules)) or 0)"
    command = [sys.executable, "-c", code, str(study.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "[" in done.stdout
