"""A study's figures, as PNG and PDF: the router's choices, accuracy over axes, against tokens and by kind of question.

They are drawn from the results there are. Two calls on the same results write the same bytes.
"""

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from lit_avg.studies.report.drawing.axes import accuracy_over, axis_names
from lit_avg.studies.report.drawing.cost import accuracy_tokens
from lit_avg.studies.report.drawing.kinds import accuracy_by_kind
from lit_avg.studies.report.drawing.selection import selection
from lit_avg.studies.report.drawing.style import SETTINGS
from lit_avg.studies.report.drawing.unfinished import unfinished
from lit_avg.studies.report.figure_cache import FIGURES, note_drawn, what_is_there
from lit_avg.studies.report.results import Results, finished_results
from lit_avg.studies.spec.study import Study
from lit_avg.utils.atomic_io import write_whole

Tell = Callable[[str], object]

DOTS_PER_INCH = 300
OVER = "accuracy_over_"


def draw_figures(study: Study, tell: Tell = lambda _: None, folder: Path | None = None) -> list[Path]:
    """Write the figures for which there is data into a folder, and remove those for which there is none.

    Args:
        study: finished or not.
        tell: is told what is missing in the figures, and which are missing.
        folder: the study's own `figures` if None.

    Returns:
        The files written, a PNG and a PDF of each.
    """
    folder = study.out / FIGURES if folder is None else folder
    drawn_from = what_is_there(study)
    results = finished_results(study)
    missing = unfinished(study, results, study.rows)
    if missing:
        tell(f"not finished: {', '.join(missing)}")
    written: list[Path] = []
    with mpl.rc_context(SETTINGS):
        for name, figure, needed in _figures(study, results):
            if figure is None:
                tell(f"no {name}: {needed}")
            else:
                written += _write(folder / name, figure)
    for old in _ours(folder):
        if old not in written:
            old.unlink()
    note_drawn(folder, drawn_from)
    return written


def _figures(study: Study, results: Results) -> Iterator[tuple[str, Figure | None, str]]:
    """Each figure by name, or what it needs that is not there."""
    yield "selection", selection(study, results), "no routed row is finished and says what it chose"
    yield "accuracy_tokens", accuracy_tokens(study, results), "no row is finished"
    yield "accuracy_by_kind", accuracy_by_kind(study, results), "no run has finished rows of two fixed granularities"
    for axis in axis_names(study):
        needed = f"it takes finished rows for two values of {axis}, all of them numbers"
        yield OVER + re.sub(r"\W+", "-", axis), accuracy_over(study, results, axis), needed
    if not axis_names(study):
        yield OVER + "…", None, "no row of this study has an axis"


def _write(path: Path, figure: Figure) -> list[Path]:
    """Save in both forms, without the time of day, so that equal figures are equal files."""
    files = [path.with_name(f"{path.name}.{form}") for form in ("png", "pdf")]
    for file, metadata in zip(files, ({}, {"CreationDate": None}), strict=True):
        content = io.BytesIO()
        figure.savefig(content, format=file.suffix[1:], dpi=DOTS_PER_INCH, metadata=metadata)
        write_whole(file, content.getvalue())
    return files


def _ours(folder: Path) -> list[Path]:
    """Figures that an earlier call has written; other files in the folder are somebody else's."""
    names = re.compile(rf"(selection|accuracy_tokens|accuracy_by_kind|{OVER}[\w-]+)\.(png|pdf)")
    return [path for path in folder.glob("*") if names.fullmatch(path.name)]
