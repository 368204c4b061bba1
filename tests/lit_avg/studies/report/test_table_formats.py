"""Every format of a table says the same, which is what the results say."""

import csv
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from lit_avg.result_names import METRICS
from lit_avg.studies.report.latex import as_latex
from lit_avg.studies.report.table import sheet_of
from lit_avg.studies.report.table_cells import SPEED_UP, Cell, TableSheet
from lit_avg.studies.report.table_formats import as_csv, as_markdown, print_table, show
from lit_avg.studies.runs.plan import plan
from lit_avg.studies.spec.study import Study, load_study
from tests.lit_avg.studies.stored import fail, finish, stored_study, write_study

NUMBER = r"[+-]?\d+\.\d+"
CELL = re.compile(
    rf"(?P<best>\*)?(?P<mean>{NUMBER})(?: ± (?P<sd>{NUMBER}))?(?: \[(?P<low>{NUMBER}), (?P<high>{NUMBER})\])?"
    rf"(?: \((?:paper (?P<paper>{NUMBER}))?(?:, )?(?:n = (?P<n>\d+))?\))?"
)

Read = Callable[[TableSheet, pytest.CaptureFixture[str]], list[list[str]]]


def text_cells(sheet: TableSheet, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    capsys.readouterr()
    print_table(sheet)
    lines = capsys.readouterr().out.splitlines()
    start = next(number for number, line in enumerate(lines) if "──" in line) + 1
    return [re.split(r" {2,}", line.strip()) for line in lines[start : start + len(sheet.lines)]]


def markdown_cells(sheet: TableSheet, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    lines = [line for line in as_markdown(sheet).splitlines() if line.startswith("|")][2:]
    return [[re.sub(r"\*\*(.*?)\*\*", r"*\1", cell) for cell in line.strip("| ").split(" | ")] for line in lines]


def latex_cells(sheet: TableSheet, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    body = as_latex(sheet).split("\\midrule\n")[1].split("\\bottomrule")[0]
    plain = re.sub(r"\\textbf\{(.*?)\}(?= |\$| \&|$)", r"*\1", body, flags=re.MULTILINE)
    for written, meant in {r"$\pm$": "±", "$-$": "-", "$+$": "+", "{[}": "[", "--": "–"}.items():
        plain = plain.replace(written, meant)
    return [line.removesuffix(" \\\\").split(" & ") for line in plain.splitlines()]


FORMATS: dict[str, Read] = {"text": text_cells, "markdown": markdown_cells, "latex": latex_cells}


def expected(cell: Cell) -> dict[str, str | None]:
    """What a person must read, from the plain numbers."""
    scale, digits = {"share": (100, 1), "count": (1, 1), "factor": (1, 2)}[cell.metric.unit]

    def shown(value: float | None, sign: str = "") -> str | None:
        return None if value is None else f"{scale * value + 0.0:{sign}.{digits}f}".replace("-0.0", "+0.0")

    ends = (None, None) if cell.interval is None else (cell.interval.low, cell.interval.high)
    return {
        "best": "*" if cell.best else None,
        "mean": shown(cell.sample.mean, "+" if cell.signed else ""),
        "sd": shown(cell.sample.sd),
        "low": shown(ends[0], "+"),
        "high": shown(ends[1], "+"),
        "paper": shown(cell.paper),
        "n": None,
    }


@pytest.fixture(scope="module")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> TableSheet:
    return sheet_of(stored_study(tmp_path_factory.mktemp("study")))


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_reads_back_as_the_same_numbers(
    name: str, sheet: TableSheet, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = FORMATS[name](sheet, capsys)
    assert [line[:2] for line in cells] == [[line.name, "3"] for line in sheet.lines]
    for line, read in zip(sheet.lines, cells, strict=True):
        assert len(read) == len(sheet.head)
        for cell, text in zip(line.cells, read[2:], strict=True):
            if cell.mean is None:
                assert text == cell.said
                continue
            found = CELL.fullmatch(text)
            assert found is not None, text
            assert found.groupdict() == expected(cell)


def test_the_csv_holds_the_numbers_themselves(sheet: TableSheet) -> None:
    for line, row in zip(sheet.lines, csv.DictReader(io.StringIO(as_csv(sheet))), strict=True):
        names = [*sheet.table.study.columns, "difference", SPEED_UP]
        for name, cell in zip(names, line.cells, strict=True):
            assert row[name] == ("" if cell.sample.mean is None else str(cell.sample.mean))
            assert row[f"{name}:sd"] == ("" if cell.sample.sd is None else str(cell.sample.sd))
        interval = line.cells[-2].interval
        assert [row["difference:low"], row["difference:high"]] == (
            ["", ""] if interval is None else [str(interval.low), str(interval.high)]
        )
        paper = line.row.row.paper
        assert [row["accuracy:paper"], row["tokens_per_tile:paper"]] == [
            str(paper.get(column, "")) for column in ("accuracy", "tokens_per_tile")
        ]
        assert "token_share:paper" not in row
        assert (row["seeds"], row["state"]) == ("3", "done")


def test_the_best_of_a_column_is_marked_the_oracle_left_out_and_ties_share_it(tmp_path: Path) -> None:
    rows = {
        name: {"run": "stage4", "policy": policy}
        for name, policy in {"a": "fixed 64", "b": "fixed 64", "c": "fixed 4", "knows": "oracle"}.items()
    }
    sheet = sheet_of(stored_study(tmp_path, rows=rows, reference="c"))
    marked = {line.name: [cell.best for cell in line.cells] for line in sheet.lines}
    # accuracies have a best; tokens have none, for the coarsest level always has the fewest; nor has what compares
    assert marked["a"] == marked["b"] == [True, True, False, False, False, False]
    assert marked["c"] == [False] * 6
    assert marked["knows"] == [False] * 6
    assert sheet.explained("bold")[0] == "bold: the best of its column, but for the oracle, which knows the answers"


def test_the_lowest_is_best_where_a_metric_says_so_and_who_knows_the_answers_is_left_out(tmp_path: Path) -> None:
    rows = {policy: {"run": "stage4", "policy": policy} for policy in ("fixed 4", "fixed 16", "fixed 64", "oracle")}
    study = stored_study(tmp_path, rows=rows, columns=["tokens_per_tile"], reference="fixed 64")
    few = replace(METRICS["tokens_per_tile"], best="low")
    informed = frozenset({"oracle", "fixed 4"})
    study = replace(study, metrics={**METRICS, "tokens_per_tile": few}, know_the_answer=informed)
    sheet = sheet_of(study)
    assert [line.name for line in sheet.lines if line.cells[0].best] == ["fixed 16"]
    assert sheet.explained("bold")[0].endswith("but for the fixed 4 and the oracle, which know the answers")


OTHERS = {
    "router": {"run": "stage4", "policy": "router"},
    "plain 64": {"run": "plain", "policy": "fixed 64", "reference": "plain 64"},
    "plain 4": {"run": "plain", "policy": "fixed 4", "reference": "plain 64"},
    "lost": {"run": "plain", "policy": "fixed 16"},
    "fixed 64": {"run": "stage4", "policy": "fixed 64"},
}
"""Rows of which three will have been asked other questions than the reference."""


def study_of_two_tests(folder: Path, asked: str | None = "others") -> Study:
    study = load_study(write_study(folder, rows=OTHERS, seeds=[0, 1]))
    for run in plan(study):
        finish(run, asked=asked if run.name == "plain" else "the usual")
    return study


def test_rows_that_were_asked_other_questions_are_compared_among_themselves_alone(tmp_path: Path) -> None:
    sheet = sheet_of(study_of_two_tests(tmp_path))
    lines = {line.name: line.cells for line in sheet.lines}
    columns = sheet.columns
    for alike in (["router", "fixed 64"], ["plain 64", "plain 4", "lost"]):
        means = {name: lines[name][0].mean for name in alike}
        assert [name for name in alike if lines[name][0].best] == [n for n in alike if means[n] == max(means.values())]
    assert [cell.said for cell in lines["lost"][-2:]] == ["other questions"] * 2
    assert not any(cell.sample.values for cell in lines["lost"][-2:])
    assert [cell.said for cell in lines["plain 64"][-2:]] == ["reference"] * 2
    to_plain = lines["plain 4"][-2]
    own, reference = (lines[name][columns.index("accuracy")].sample for name in ("plain 4", "plain 64"))
    assert to_plain.sample.values == tuple(a - b for a, b in zip(own.values, reference.values, strict=True))
    assert to_plain.ends is not None
    assert to_plain.behind.endswith("]†")
    assert lines["plain 4"][-1].behind == " ± 0.00†"
    assert "†: compared with plain 64 instead" in sheet.notes
    assert [note for note in sheet.notes if note.startswith("other questions: ")]
    assert sheet.explained("*")[0].startswith("*: the best of its column among rows that were asked the same questions")
    assert r"]\dag{}" in as_latex(sheet).replace("\\\\", "")  # the cell's own end is two backslashes
    assert [row["reference"] for row in csv.DictReader(io.StringIO(as_csv(sheet)))] == [
        "fixed 64", "plain 64", "plain 64", "fixed 64", "fixed 64"
    ]  # fmt: skip


def test_results_that_do_not_tell_their_questions_count_as_asked_the_same(tmp_path: Path) -> None:
    lost = {line.name: line.cells for line in sheet_of(study_of_two_tests(tmp_path, asked=None)).lines}["lost"]
    assert lost[-2].ends is not None


@pytest.mark.parametrize(("seeds", "drawn"), [([0], "images; one seed tells"), ([0, 1], "seeds and images")])
def test_the_table_says_what_its_intervals_speak_of(seeds: list[int], drawn: str, tmp_path: Path) -> None:
    notes = sheet_of(stored_study(tmp_path, seeds=seeds)).notes
    assert [note for note in notes if note.partition("bootstrap over ")[2].startswith(drawn)]


def test_a_row_of_one_seed_beside_others_has_an_interval_over_images_alone_and_the_table_says_so(
    tmp_path: Path,
) -> None:
    study = load_study(write_study(tmp_path))
    for run in plan(study):
        if run.name != "plain" or run.seed == 0:
            finish(run)
    said = "from a paired bootstrap over seeds and images; where n is 1, over images alone"
    assert [note for note in sheet_of(study).notes if note.endswith(said)]


def test_a_difference_between_other_questions_is_none_also_where_only_the_questions_tell(tmp_path: Path) -> None:
    study = study_of_two_tests(tmp_path, asked=None)
    for run in plan(study):
        if run.name == "plain":
            finish(run, questions=39, asked=None)
    sheet = sheet_of(study)
    assert [cell.said for cell in {line.name: line.cells for line in sheet.lines}["lost"][-2:]] == [
        "other questions"
    ] * 2
    assert not [note for note in sheet.notes if note.startswith("no interval")]


def test_the_speed_up_is_the_ratio_of_visual_tokens_to_those_of_the_reference(sheet: TableSheet) -> None:
    by_name = {line.name: line.cells[-1] for line in sheet.lines}
    assert by_name["fixed 4"].mean == "16.00"  # 192 tokens of an image against 12
    assert by_name["fixed 64"].mean is None
    assert by_name["fixed 64"].said == "reference"


def test_unfinished_rows_say_what_is_the_matter_and_finished_ones_of_how_many_seeds_they_are(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path))
    for run in plan(study):
        if run.name == "stage3" and run.seed == 2:
            fail(run)
        elif (run.name, run.seed) in (("stage3", 0), ("stage3", 1), ("stage4", 0)):
            finish(run)
    lines = {line.name: line for line in sheet_of(study).lines}
    # seed 2 has no stage 3, so that nothing after it can be made
    assert lines["router"].count == "1 of 3, 1 failed"
    assert lines["router"].cells[0].sd is None
    assert lines["plain router"].count == "0 of 3, 1 failed"
    assert [cell.said for cell in lines["plain router"].cells] == ["failed", "–", "–", "–", "–", "–"]


def test_a_metric_that_some_seeds_lack_says_of_how_many_it_is(tmp_path: Path) -> None:
    import json

    study = stored_study(tmp_path)
    result = study.out / "seed-1" / "stage4" / "result.json"
    content = json.loads(result.read_text())
    del content["metrics"]["router/tokens_per_tile"]
    result.write_text(json.dumps(content))
    router = sheet_of(study).lines[0]
    assert router.cells[2].behind.endswith("(paper 33.0, n = 2)")
    assert router.cells[0].behind.endswith("(paper 71.1)")


def test_a_terminal_shows_the_best_in_bold_without_a_star(sheet: TableSheet) -> None:
    shown = io.StringIO()
    show(sheet, Console(file=shown, force_terminal=True, width=200, color_system="truecolor"))
    best = next(cell.mean for line in sheet.lines for cell in line.cells if cell.best)
    assert f"\x1b[1m{best}\x1b[0m" in shown.getvalue()
    assert "*" not in shown.getvalue()


def test_beneath_the_table_stands_what_the_papers_numbers_were_measured_on(tmp_path: Path) -> None:
    assert (
        "in parentheses: the paper's number, on ScienceQA" in sheet_of(stored_study(tmp_path, paper="ScienceQA")).notes
    )
