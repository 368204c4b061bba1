from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from lit_avg.studies.report.drawing.axes import accuracy_over, lines_over, number
from lit_avg.studies.report.drawing.cost import accuracy_tokens, comparable
from lit_avg.studies.report.drawing.kinds import accuracy_by_kind
from lit_avg.studies.report.drawing.pareto import pareto_front
from lit_avg.studies.report.drawing.selection import selection
from lit_avg.studies.report.drawing.style import SETTINGS
from lit_avg.studies.report.results import finished_results
from tests.lit_avg.studies.made_up import (
    CHOICES,
    FIXED,
    LEVELS,
    ROUTER,
    finish,
    grid_metrics,
    grid_study,
    made_up_study,
    router_metrics,
)

points = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12)


def shown(figure: Figure | None) -> Axes:
    assert figure is not None
    return figure.axes[0]


def words(figure: Figure | None) -> str:
    """All that is written beside a figure's panels, on one line."""
    assert figure is not None
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return " ".join(" | ".join([figure.get_supxlabel(), *legends]).split())


def lines(axis: Axes) -> dict[str, list[tuple[float, float]]]:
    """The points of every line that the legend names; of one seed and without gaps."""
    data = {str(line.get_label()): line.get_xydata() for line in axis.lines}
    return {name: [(x, pytest.approx(y)) for x, y in found] for name, found in data.items() if name[0] != "_"}


@given(points)
def test_the_front_is_what_nothing_is_preferable_to(points: list[tuple[int, int]]) -> None:
    def preferable(one: tuple[int, int], other: tuple[int, int]) -> bool:
        return one != other and one[0] <= other[0] and one[1] >= other[1]

    undominated = [place for place, point in enumerate(points) if not any(preferable(one, point) for one in points)]
    front = pareto_front(points)
    assert sorted(front) == undominated
    assert [points[place][0] for place in front] == sorted(points[place][0] for place in front)


def test_a_bar_is_as_wide_as_the_mean_share_of_its_granularity(tmp_path: Path) -> None:
    study = made_up_study(tmp_path, seeds=[0, 1], rows={"router": ROUTER})
    other = {"number": {4: 0.75, 64: 0.25}, "crowd": {4: 1.0, 64: 0.0}}
    finish(study, lambda run: router_metrics(0.9, 0.5, other if run.seed else CHOICES))
    axis = shown(selection(study, finished_results(study)))
    assert [label.get_text() for label in axis.get_yticklabels()] == ["crowd", "number"]
    bars = [(patch.get_x(), patch.get_width()) for patch in axis.patches if isinstance(patch, Rectangle)]
    coarsest, finest = [(0, 100), (0, 50)], [(100, 0), (50, 50)]  # crowd, then number: 25 and 75 % of two seeds
    assert bars == [pytest.approx(bar) for bar in [*coarsest, *finest]]
    assert [text.get_text() for text in axis.texts] == ["100", "50", "", "50"]


def test_every_routed_row_has_a_panel_with_its_whole_name(tmp_path: Path) -> None:
    names = [f"a router whose name does not at all fit above its panel, number {n}" for n in range(11)]
    rows = {name: ROUTER | {"set": {"k": n}} for n, name in enumerate(names)}
    study = made_up_study(tmp_path, rows=rows | FIXED)
    finish(study, lambda run: router_metrics(0.9, 0.5, CHOICES))
    figure = selection(study, finished_results(study))
    assert figure is not None
    assert [" ".join(axis.get_title("left").split()) for axis in figure.axes] == names


def test_a_point_of_a_line_is_the_mean_over_seeds_and_the_band_one_deviation(tmp_path: Path) -> None:
    study = grid_study(tmp_path)
    finish(study, grid_metrics)
    axis = shown(accuracy_over(study, finished_results(study), "k"))
    drawn = lines(axis)
    assert drawn["alpha = 0.1"] == [(0, 49), (8, 57), (32, 81)]  # 50 + k - 1
    assert drawn["alpha = 1.0"] == [(0, 40), (8, 48), (32, 72)]  # 50 + k - 10
    assert drawn["fixed 64 (reference)"] == [(0, 93), (1, 93)]
    heights = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((48, 82))  # a seed less or more is one point
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["0", "8", "32"]


def test_a_line_breaks_where_a_row_is_not_finished_and_the_figure_says_so(tmp_path: Path) -> None:
    study = grid_study(tmp_path)
    finish(study, lambda run: None if dict(run.run.values) == {"k": 8, "alpha": 0.1} else grid_metrics(run))
    figure = accuracy_over(study, finished_results(study), "k")
    _, at_8, _ = lines(shown(figure))["alpha = 0.1"]
    assert at_8[1] != at_8[1].expected  # not a number
    assert words(figure).startswith("not finished: k 8, alpha 0.1 (0 of 3 seeds) |")


def test_a_seed_that_misses_is_named(tmp_path: Path) -> None:
    study = grid_study(tmp_path)
    finish(study, lambda run: None if run.seed == 2 and dict(run.run.values).get("k") == 0 else grid_metrics(run))
    note = "not finished: k 0, alpha 0.1 (2 of 3 seeds), k 0, alpha 1.0 (2 of 3 seeds)"
    results = finished_results(study)
    for figure in (accuracy_over(study, results, "alpha"), accuracy_tokens(study, results), selection(study, results)):
        assert words(figure).startswith(note)


def test_values_too_dense_for_their_ticks_are_drawn_on_a_logarithmic_axis(tmp_path: Path) -> None:
    scales: list[str] = []
    for number_, alphas in enumerate(([0.01, 0.1, 1.0], [0, 0.01, 1.0], [0, 0.5, 1.0])):
        (tmp_path / str(number_)).mkdir()
        study = grid_study(tmp_path / str(number_), axes={"alpha": alphas, "k": [8]})
        finish(study, grid_metrics)
        axis = shown(accuracy_over(study, finished_results(study), "alpha"))
        assert axis.get_xticks().tolist() == alphas
        scales.append(axis.get_xscale())
    assert scales == ["log", "symlog", "linear"]


def test_rows_of_two_templates_are_two_lines(tmp_path: Path) -> None:
    rows = {f"{name}, k {{k}}": ROUTER | {"set": {"k": "{k}", "kind": name}} for name in ("routed", "blind")}
    study = made_up_study(tmp_path, axes={"k": [0, 8]}, rows=rows)
    finish(study, grid_metrics)
    drawn = lines(shown(accuracy_over(study, finished_results(study), "k")))
    assert drawn == {"routed, k …": [(0, 49), (8, 57)], "blind, k …": [(0, 49), (8, 57)]}


@pytest.mark.parametrize(
    ("value", "meant"), [(8, 8.0), ("1e-3", 0.001), (True, None), ("average", None), ([4, 8], None), ("nan", None)]
)
def test_what_can_be_an_axis_is_a_number_also_where_yaml_sees_a_text(value: object, meant: float | None) -> None:
    assert number(value) == meant


def test_the_front_leaves_out_what_costs_more_for_less_and_the_oracle(tmp_path: Path) -> None:
    rows = {"router": ROUTER, **FIXED, "oracle": {"run": "stage4", "policy": "oracle"}}
    study = made_up_study(tmp_path, rows=rows)
    metrics = dict(router_metrics(0.92, 0.4)) | {"oracle/accuracy": 0.99, "oracle/token_share": 0.05}
    finish(study, lambda run: metrics)
    drawn = lines(shown(accuracy_tokens(study, finished_results(study))))
    # fixed levels go from 85 % in steps of 2 to 93 % at all tokens; the router is above the 91 % at half of them
    assert drawn["Pareto front (without the oracle)"] == [(6.25, 85), (12.5, 87), (25, 89), (40, 92), (100, 93)]


def test_a_line_joins_only_rows_that_were_asked_the_same(tmp_path: Path) -> None:
    rows = {"k {k}": {**ROUTER, "set": {"k": "{k}"}}}
    study = made_up_study(tmp_path, axes={"k": [1, 2, 3]}, rows=rows)
    results = {
        row.run: {0: {"questions": "x" if row.axes["k"] < 3 else "y", "metrics": {"router/accuracy": 0.5}}}
        for row in study.rows
    }
    found = {line.name: [value for value, _ in line.points] for line in lines_over(study.rows, results, "k")}
    assert found == {"k …": [1.0, 2.0], "k … (other questions)": [3.0]}


def test_the_front_is_of_rows_that_were_asked_the_same(tmp_path: Path) -> None:
    study = made_up_study(tmp_path, rows={"one": ROUTER, "other": {**ROUTER, "set": {"k": 8}}})
    for reference, expected in ((None, ["one"]), ("other", ["other"])):
        results = {row.run: {0: {"questions": row.name, "metrics": {}}} for row in study.rows}
        rows = comparable(replace(study, reference=reference), study.rows, results)
        assert [row.name for row in rows] == expected


def test_fixed_levels_are_joined_and_named_by_their_tokens(tmp_path: Path) -> None:
    study = made_up_study(tmp_path, rows={"router": ROUTER, **FIXED})
    finish(study, lambda run: router_metrics(0.5, 0.9))
    axis = shown(accuracy_tokens(study, finished_results(study)))
    joined = [line for line in axis.lines if line.get_color() == "0.35" and len(line.get_xydata()) == 5]
    assert [line.get_linestyle() for line in joined] == ["-"]
    assert joined[0].get_ydata() == pytest.approx([85, 87, 89, 91, 93])
    assert [text.get_text() for text in axis.texts] == ["4", "8", "16", "32", "64"]


def test_labels_cover_neither_each_other_nor_a_point(tmp_path: Path) -> None:
    study = grid_study(tmp_path, axes={"k": [0, 8, 16, 32, 64], "alpha": [0.1, 1.0]}, seeds=[0])
    steps = {name: number for number, name in enumerate(study.runs)}
    finish(study, lambda run: router_metrics(0.92 + 0.005 * steps[run.name], 0.3 + 0.02 * steps[run.name]))
    with mpl.rc_context(SETTINGS):
        axis = shown(accuracy_tokens(study, finished_results(study)))
        dots = [axis.transData.transform(point) for line in axis.lines for point in line.get_xydata()]
        axis.figure.draw_without_rendering()
        boxes = [Text.get_window_extent(text) for text in axis.texts]  # without the line that leads to the point
    assert len(boxes) == len(LEVELS) + 10, "all of the crowd are on the front"
    assert [one for number, one in enumerate(boxes) for other in boxes[:number] if one.overlaps(other)] == []
    assert [box for box in boxes for dot in dots if box.contains(*dot)] == []


def test_fixed_levels_of_several_runs_are_joined_apart_and_called_as_their_rows_are(tmp_path: Path) -> None:
    rows = {f"max pooling, {name}": row | {"set": {"pooling": "max"}} for name, row in FIXED.items()}
    study = made_up_study(tmp_path, rows={**FIXED, **rows})
    finish(study, lambda run: router_metrics(0.5, 0.9))
    results = finished_results(study)
    figure = accuracy_tokens(study, results)
    assert words(figure) == "| Pareto front | fixed, stage4 | fixed, max pooling"
    joined = [line for line in shown(figure).lines if line.get_color() == "0.35" and len(line.get_xydata()) == 5]
    assert [line.get_linestyle() for line in joined] == ["-", "--"]
    by_kind = accuracy_by_kind(study, results)
    assert by_kind is not None
    assert [axis.get_title("left") for axis in by_kind.axes] == ["stage4", "max pooling"]


def test_each_kind_has_a_line_over_the_fixed_granularities(tmp_path: Path) -> None:
    study = made_up_study(tmp_path, rows={"router": ROUTER, **FIXED})
    finish(study, lambda run: router_metrics(0.9, 0.5))
    drawn = lines(shown(accuracy_by_kind(study, finished_results(study))))
    assert drawn["number"] == [(tokens, 80) for tokens in LEVELS]
    assert drawn["jersey"] == [(4, 80), (8, 81), (16, 82), (32, 83), (64, 84)]
