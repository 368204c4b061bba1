import csv
from pathlib import Path

import pytest
import torch

from callbacks.granularity_histogram import Selection, append_rows, selection_figure, selections_by_kind
from lit_avg.visual_tokens.granularity import Granularities

LEVELS = Granularities((1, 2, 4))


def test_shares_are_counted_overall_and_for_each_kind() -> None:
    chosen, kinds = torch.tensor([0, 2, 2, 2]), ["number", "colour", "colour", "number"]
    assert selections_by_kind(chosen, kinds, levels=3) == [
        Selection("all", 4, [0.25, 0.0, 0.75]),
        Selection("colour", 2, [0.0, 0.0, 1.0]),
        Selection("number", 2, [0.5, 0.0, 0.5]),
    ]


def test_questions_without_kinds_are_counted_once() -> None:
    assert selections_by_kind(torch.tensor([1, 1]), ["all", "all"], levels=3) == [Selection("all", 2, [0.0, 1.0, 0.0])]


def test_a_resumed_run_replaces_what_it_wrote_before(tmp_path: Path) -> None:
    path, selections = tmp_path / "selection.csv", [Selection("all", 2, [0.5, 0.5, 0.0])]
    for step in (10, 20, 30, 20):
        append_rows(path, "val", step, LEVELS, selections)
    append_rows(path, "test", 0, LEVELS, selections)
    rows = list(csv.reader(path.open()))
    assert rows[0] == ["split", "step", "kind", "questions", "1", "2", "4"]
    assert [row[:2] for row in rows[1:]] == [["val", "10"], ["val", "20"], ["test", "0"]]


def test_each_bar_of_the_image_is_whole() -> None:
    figure = selection_figure(LEVELS, [Selection("all", 4, [0.25, 0.0, 0.75]), Selection("colour", 2, [0.5, 0.5, 0.0])])
    widths = [[bar.get_width() for bar in bars] for bars in figure.axes[0].containers]  # of each level, kind by kind
    assert widths == [[25, 50], [0, 50], [75, 0]]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["all (4)", "colour (2)"]


def test_a_run_leaves_a_row_for_each_kind_and_evaluation(tested_run: Path) -> None:
    rows = list(csv.DictReader((tested_run / "selection.csv").open()))
    assert [(row["split"], row["step"]) for row in rows if row["kind"] == "all"] == [
        ("val", "2"),
        ("val", "4"),
        ("test", "0"),
    ]
    assert {row["kind"]: row["questions"] for row in rows} == {"all": "4", "colour": "2", "number": "2"}  # no "chat"
    assert all(sum(float(row[level]) for level in ("1", "2", "4", "8", "16")) == pytest.approx(1) for row in rows)
