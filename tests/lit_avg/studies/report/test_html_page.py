import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lit_avg import cli
from lit_avg.studies.report.html_page import as_page
from lit_avg.studies.report.table import sheet_of
from lit_avg.studies.runs.plan import plan
from lit_avg.studies.spec.study import load_study
from tests.lit_avg.studies.stored import fail, finish, stored_study, write_study

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class TableReader(HTMLParser):
    """The cells of the page's first table, bold ones with a star."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cells: list[list[str]] = []
        self._inside, self._rows = False, 0
        self.feed(page[page.index('<table id="table">') : page.index("</table>")])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.cells.append([])
        elif tag in ("td", "th"):
            self.cells[-1].append("")
        elif tag == "strong":
            self.cells[-1][-1] += "*"

    def handle_data(self, data: str) -> None:
        if self.cells and self.cells[-1]:
            self.cells[-1][-1] += data.strip("\n")


def test_the_page_says_what_all_formats_say(tmp_path: Path) -> None:
    sheet = sheet_of(stored_study(tmp_path))
    head, *lines = TableReader(as_page(sheet)).cells
    assert head == sheet.head
    for line, read in zip(sheet.lines, lines, strict=True):
        cells = [f"{'*' if cell.best else ''}{cell.mean or cell.said}{cell.behind}" for cell in line.cells]
        assert read == [line.name, line.count, *cells]


def test_every_number_leads_to_its_seeds_and_every_seed_to_its_run(tmp_path: Path) -> None:
    study = stored_study(tmp_path)
    page = as_page(sheet_of(study))
    targets = set(re.findall(r'id="([^"]+)"', page))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= targets
    for run in plan(study):
        assert f"run-{run.identity}" in targets
        block = page.partition(f'id="run-{run.identity}"')[2].partition('<details id="run-')[0]
        assert f"<dt>seed</dt><dd>{run.seed}</dd>" in block
        assert f"lit-avg fit --config {run.run.configs[0]}" in block
        assert "alpha: 0.1" in block
    # stage 4 with seed 1: the made-up accuracy of `fixed 64` is 26 of 40
    seeds = page[page.index('id="row-2"') : page.index('id="row-3"')]
    row = re.sub(r"<[^>]*>", " ", seeds.split("<tr>")[3]).split()
    assert row[:6] == ["1", plan(study)[4].identity, "0123456789", "da7ada7ada7ada7a", "c0ffee0000000000", "65.0"]
    for fact in ("0123456789abcdef", "da7ada7ada7ada7a", "own c0ffee", "host lamp, threads 1", "python 3.11.7"):
        assert fact in page


def test_a_store_of_feedback_tells_what_it_was_computed_with(tmp_path: Path) -> None:
    trained = {"configs": ["stage4.yaml"], "after": ["stage3", "feedback"], "test": True}
    runs = {
        "stage3": {"configs": ["stage3.yaml"]},
        "feedback": {"configs": ["stage4.yaml"], "after": ["stage3"], "feedback": True},
        "stage4": trained,
        "plain": trained | {"configs": ["plain.yaml"]},
    }
    study = stored_study(tmp_path, runs=runs)
    (store,) = [run for run in plan(study) if run.name == "feedback" and run.seed == 1]
    block = as_page(sheet_of(study)).partition(f'id="run-{store.identity}"')[2].partition('<details id="run-')[0]
    for fact in ("da7a, 7 samples", "weights of the llm 11ff", "5afe", "lit-avg feedback --config"):
        assert fact in block


def test_nothing_in_a_study_becomes_part_of_the_page(tmp_path: Path) -> None:
    name = '<script>alert("x")</script> & more'
    study = stored_study(tmp_path, rows={name: {"run": "stage4", "policy": "router"}}, reference=name)
    page = as_page(sheet_of(study))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt; &amp; more" in page


def test_the_page_asks_for_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = as_page(sheet_of(stored_study(tmp_path)))
    assert re.findall(r'(?:src|href)="(?!#|data:)([^"]*)', page) == []
    assert "url(" not in page
    assert "@import" not in page


def test_what_is_not_finished_or_has_failed_is_on_the_page(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path))
    fail(plan(study)[0])
    page = as_page(sheet_of(study))
    assert page.count(">failed") > 5
    assert "0 of 3, 1 failed" in page
    assert "resolved config" not in page


def test_figures_of_an_earlier_study_or_earlier_results_are_drawn_anew(tmp_path: Path) -> None:
    study = stored_study(tmp_path)
    figure = study.out / "figures" / "selection.png"
    as_page(sheet_of(study))
    first = figure.stat().st_mtime_ns
    as_page(sheet_of(study))
    assert figure.stat().st_mtime_ns == first
    for drawn in figure.parent.glob("*.p*"):
        drawn.unlink()
    as_page(sheet_of(study))
    assert figure.is_file()
    first = figure.stat().st_mtime_ns
    finish(plan(study)[1])
    as_page(sheet_of(study))
    second = figure.stat().st_mtime_ns
    assert second > first
    as_page(sheet_of(load_study(write_study(tmp_path, columns=["accuracy", "tokens_per_tile"]))))
    assert figure.stat().st_mtime_ns > second


def test_figures_of_two_columns_have_a_line_to_themselves(tmp_path: Path) -> None:
    page = as_page(sheet_of(stored_study(tmp_path)))
    wide = [re.findall(r'alt="([^"]+)"', part)[0] for part in page.split('<figure class="wide">')[1:]]
    narrow = [re.findall(r'alt="([^"]+)"', part)[0] for part in page.split("<figure>")[1:]]
    assert "accuracy tokens" in wide
    assert "accuracy by kind" in narrow


def test_the_command_writes_the_page_and_prints_it_when_piped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = stored_study(tmp_path)
    assert cli.main(["table", str(study.path), "--format", "html"]) == 0
    assert (study.out / "table.html").read_text() == capsys.readouterr().out


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium; Debian has it as `chromium`")
def test_a_browser_without_network_shows_table_and_figures(tmp_path: Path) -> None:
    study = stored_study(tmp_path)
    counting = (
        "<script>onload = () => document.body.dataset.widths = [...document.images].map(i => i.naturalWidth)</script>"
    )
    page = as_page(sheet_of(study))
    (tmp_path / "page.html").write_text(page + counting)
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += ["--dump-dom", f"file://{tmp_path / 'page.html'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert TableReader(done.stdout).cells == TableReader(page).cells
    found = re.search(r'data-widths="([\d,]+)"', done.stdout)
    assert found is not None
    widths = [int(width) for width in found[1].split(",")]
    assert len(widths) == len(list((study.out / "figures").glob("*.png"))) > 0
    assert min(widths) > 100
