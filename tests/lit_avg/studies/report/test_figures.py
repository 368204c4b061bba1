import hashlib
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest

from lit_avg.cli import main
from lit_avg.studies.report.drawing.axes import accuracy_over
from lit_avg.studies.report.drawing.cost import accuracy_tokens
from lit_avg.studies.report.drawing.kinds import accuracy_by_kind
from lit_avg.studies.report.drawing.selection import selection
from lit_avg.studies.report.drawing.style import SETTINGS
from lit_avg.studies.report.figures import draw_figures
from lit_avg.studies.report.results import finished_results
from tests.lit_avg.studies.made_up import ROUTER, finish, grid_metrics, grid_study, made_up_study, router_metrics


def test_two_calls_write_equal_files_with_letters_that_can_be_printed(tmp_path: Path) -> None:
    study = grid_study(tmp_path)
    finish(study, grid_metrics)

    def drawn() -> dict[str, str]:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in draw_figures(study)}

    once = drawn()
    names = ("selection", "accuracy_tokens", "accuracy_by_kind", "accuracy_over_k", "accuracy_over_alpha")
    assert list(once) == [f"{name}.{form}" for name in names for form in ("png", "pdf")]
    assert drawn() == once
    for path in (study.out / "figures").glob("*.pdf"):
        content = path.read_bytes()
        assert b"/FontFile2" in content, "TrueType is embedded"
        assert b"/Type3" not in content
        assert b"CreationDate" not in content


def test_figures_are_as_wide_as_columns_and_their_letters_at_least_seven_points_high(tmp_path: Path) -> None:
    study = grid_study(tmp_path)
    finish(study, lambda run: None if dict(run.run.values).get("k") == 0 else grid_metrics(run))
    results = finished_results(study)
    with mpl.rc_context(SETTINGS):
        figures = [
            accuracy_over(study, results, "k"),
            accuracy_by_kind(study, results),
            accuracy_tokens(study, results),
        ]
        figures.append(selection(study, results))
    assert [figure.get_figwidth() for figure in figures if figure] == [3.3, 3.3, 6.9, 6.9]
    for figure in filter(None, figures):
        assert min(text.get_fontsize() for text in figure.findobj(mpl.text.Text) if text.get_text()) >= 7


def test_the_command_says_what_it_writes_what_is_not_finished_and_what_cannot_be_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = made_up_study(tmp_path, rows={"router": ROUTER, "other": ROUTER | {"set": {"k": 8}}})
    finish(study, lambda run: None if run.run.values else router_metrics(0.9, 0.5))
    assert main(["figures", str(study.path)]) == 0
    folder = study.out / "figures"
    assert capsys.readouterr().out.splitlines() == [
        "not finished: other (0 of 1 seed)",
        "no selection: no routed row is finished and says what it chose",
        "no accuracy_by_kind: no run has finished rows of two fixed granularities",
        "no accuracy_over_…: no row of this study has an axis",
        f"{folder / 'accuracy_tokens.png'}",
        f"{folder / 'accuracy_tokens.pdf'}",
    ]


def test_what_has_no_data_is_not_drawn_and_an_old_figure_of_it_is_removed(tmp_path: Path) -> None:
    study = grid_study(tmp_path, axes={"k": [0, 8], "alpha": ["low", "high"]})
    folder = study.out / "figures"
    folder.mkdir(parents=True)
    for name in ("accuracy_over_alpha.png", "selection.pdf", "my own.png"):
        (folder / name).write_bytes(b"old")
    told: list[str] = []
    assert draw_figures(study, told.append) == []
    assert [path.name for path in folder.glob("[!.]*")] == ["my own.png"]
    assert "no accuracy_over_alpha: it takes finished rows for two values of alpha, all of them numbers" in told
    assert "no accuracy_tokens: no row is finished" in told


def test_help_on_figures_needs_no_matplotlib() -> None:
    code = "import sys; from lit_avg.cli import main; assert main(['figures', '--help']) == 0;"
    code += "sys.exit('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
