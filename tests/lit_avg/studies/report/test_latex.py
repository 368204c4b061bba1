import shutil
import subprocess
from pathlib import Path

import pytest

from lit_avg.studies.report.latex import as_latex, escaped
from lit_avg.studies.report.table import sheet_of
from tests.lit_avg.studies.stored import stored_study

DOCUMENT = r"""\documentclass{article}
\usepackage[margin=1cm,landscape]{geometry}
\usepackage{booktabs}
\begin{document}
\noindent\input{table.tex}
\end{document}
"""

ODD = r"""50 % & more_tokens #1 $x$ { a } ~ ^ \ <b> |c| [d] "e" é ł ą ð ẽ ấ ǐ K ϝ α Ω κ Κ Δ ≤ 2× – 雪"""


def test_what_latex_would_take_for_a_command_is_set_as_text() -> None:
    assert escaped("a_b & 50 % [x]") == r"a\_b \& 50 \% {[}x]"
    assert escaped("α = 0.1, Δ ≥ Α") == r"$\alpha$ = 0.1, $\Delta$ $\geq$ A"
    assert escaped("雪ϝ") == r"\texttt{U+96EA}\texttt{U+03DD}"
    assert escaped("é e\u0303 ấ ǐ") == r"é \~{e} \'{\^{a}} \v{\i}"
    assert escaped("*starred†") == r"{*}starred\dag{}"


def test_where_the_numbers_come_from_stands_in_a_comment_of_one_line(tmp_path: Path) -> None:
    first, second, third = as_latex(sheet_of(stored_study(tmp_path))).splitlines()[:3]
    assert first.startswith("% config ")
    assert first.endswith("seeds 0, 1, 2 · commit 0123456789 · data da7ada7ada7ada7a")
    assert second.startswith("% lit-avg table")
    assert third.startswith(r"\begin{tabular}{lrrrrrrr}")


@pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="there is no pdflatex; Debian has it in texlive-latex-base"
)
def test_the_table_compiles_whatever_its_rows_are_called(tmp_path: Path) -> None:
    rows = {name: {"run": "stage4", "policy": "router"} for name in (ODD, "[0.1, 1]")}
    study = stored_study(tmp_path, rows=rows, reference=ODD)
    (tmp_path / "table.tex").write_text(as_latex(sheet_of(study)))
    (tmp_path / "document.tex").write_text(DOCUMENT)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "document.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "document.pdf").stat().st_size > 10_000
