import ast
import io
import sys
from pathlib import Path

import pytest

from lit_avg.cli import main
from lit_avg.utils.terminal import PLAIN, write_plain_signs
from tests.tiny_run import write_stage

ROOT = Path(__file__).parents[3]

DRAWN_OR_TYPESET = ("latex.py", "image_gallery.py", "terminals.py")
"""Modules whose signs go into an image or a LaTeX file, or are replaced themselves."""


def terminal_of(encoding: str, monkeypatch: pytest.MonkeyPatch) -> io.BytesIO:
    """Standard output and errors as on a terminal that knows this encoding; gives what is written to it."""
    shown = io.BytesIO()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(shown, encoding=encoding, write_through=True))
    return shown


@pytest.mark.parametrize(
    ("encoding", "seen"),
    [
        ("ascii", "-0.5 +- 1.0 | 3 x 4 ? --"),
        ("latin-1", "-0.5 ± 1.0 · 3 × 4 ? --"),
        ("utf-8", "−0.5 ± 1.0 · 3 × 4 字 ──"),
    ],
)
def test_a_terminal_shows_each_sign_or_a_plain_one_and_a_number_keeps_its_minus(
    encoding: str, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = terminal_of(encoding, monkeypatch)
    write_plain_signs()
    print("−0.5 ± 1.0 · 3 × 4 字 ──")
    assert shown.getvalue().decode(encoding) == f"{seen}\n"


def test_a_run_is_described_fitted_and_tested_on_a_terminal_without_unicode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = terminal_of("ascii", monkeypatch)
    stage = write_stage(tmp_path, "RGLF")
    for verb in ("describe", "fit", "test"):
        assert main([verb, "--config", stage]) == 0
    assert "RGLF | RGLF trains router" in shown.getvalue().decode("ascii")


def test_every_sign_that_is_printed_has_a_plain_one() -> None:
    unknown = dict[str, str]()
    for path in [path for top in ("lit_avg", "datamodules", "callbacks") for path in (ROOT / top).rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
        explained = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, documented)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in explained:
                signs = {sign for sign in node.value if not sign.isascii()} - set(PLAIN)
                unknown |= dict.fromkeys(signs, path.name) if path.name not in DRAWN_OR_TYPESET else {}
    assert unknown == {}
