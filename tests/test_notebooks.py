"""Every notebook runs from top to bottom, and is kept without what it has printed and drawn."""

from pathlib import Path

import nbformat
import pytest
import torch
import yaml
from nbclient import NotebookClient
from nbformat import NotebookNode

from callbacks.results_writer import outcomes_csv
from lit_avg.evaluation.outcomes import Outcomes
from lit_avg.studies.runs.plan import plan
from lit_avg.studies.spec.study import Study
from lit_avg.visual_tokens.granularity import Granularities
from tests.lit_avg.studies.made_up import CHOICES, FIXED, KINDS, LEVELS, ROUTER, finish, made_up_study, router_metrics

ROOT = Path(__file__).parents[1]
QUICK_START = ROOT / "experiments" / "studies" / "quickstart.yaml"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LOOKS, READING = (ROOT / "notebooks" / f"{name}.ipynb" for name in ("01_five_looks_at_one_image", "02_reading_a_study"))


def executed(path: Path, **at_the_top: Path) -> NotebookNode:
    """A notebook with its outputs, other paths put into the cell that begins with them."""
    notebook = nbformat.read(path, as_version=4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    for name, value in at_the_top.items():
        assert first.source.startswith(f"{name} = "), "paths are at the top"
        first.source = f"{name} = {str(value)!r}"
    return NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(ROOT)}}).execute()


def outputs(notebook: NotebookNode, kind: str) -> list[str]:
    found = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    return ["".join(data[kind]) for data in found if kind in data]


def outcomes(seed: int) -> Outcomes:
    """Of 30 questions: numbers are read at 16 tokens and more, all else at once; the router takes 16."""
    generator = torch.Generator().manual_seed(seed)
    kinds = [KINDS[question % len(KINDS)] for question in range(30)]
    correct = torch.tensor([[kind != "number" or tokens >= 16 for tokens in LEVELS] for kind in kinds])
    return Outcomes(
        keys=[f"{question:03d}" for question in range(30)],
        kinds=kinds,
        granularities=Granularities(LEVELS),
        correct=correct,
        feedback=torch.randn(30, len(LEVELS), generator=generator),
        scores=torch.tensor([0.1, 0.1, 0.6, 0.1, 0.1]).log().expand(30, -1),
        visual_tokens=torch.tensor(LEVELS).expand(30, -1) * 3,
        text_tokens=torch.full((30,), 13),
        tiles=torch.full((30,), 3),
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs_and_counts(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count, dict(cell.metadata)) == ([], None, {}), (
                "strip before committing"
            )


def test_there_are_two_notebooks() -> None:
    assert NOTEBOOKS == [LOOKS, READING]


def test_five_looks_are_drawn_without_a_trained_model_and_say_so(tmp_path: Path) -> None:
    notebook = executed(LOOKS, RUN=tmp_path / "nothing")
    assert len(outputs(notebook, "image/png")) == 4
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert f"There is no {tmp_path / 'nothing'} yet: these weights are random" in printed


def quick_start(folder: Path) -> Study:
    """Rows, columns and seeds of the quick start, over runs that nobody has trained for."""
    content = yaml.safe_load(QUICK_START.read_text())
    for run in content["runs"].values():
        run["configs"] = ["stage4.yaml"]
    return made_up_study(folder, **{name: content[name] for name in ("seeds", "runs", "rows", "columns", "reference")})


def test_a_notebook_reads_what_the_quick_start_leaves(tmp_path: Path) -> None:
    study = quick_start(tmp_path)
    finish(study, lambda run: router_metrics(0.9, 0.5, CHOICES) if run.name in ("stage4", "image-only") else {})
    for run in plan(study):
        always_16 = {"router": torch.full((30,), LEVELS.index(16))}
        if run.name in ("stage4", "image-only"):
            (run.directory / "outcomes.csv").write_text(outcomes_csv(outcomes(0), always_16))
    notebook = executed(READING, STUDY=study.path)
    assert len(outputs(notebook, "image/png")) == 3
    table, _ = outputs(notebook, "text/html")
    assert "90.0" in table
    assert ">router</th>" in table
    assert ">image-only router</th>" in table


def test_notebooks_begin_with_what_the_quick_start_makes() -> None:
    assert f"lit-avg sweep {QUICK_START.relative_to(ROOT)}" in (ROOT / "Makefile").read_text()
    made = yaml.safe_load(QUICK_START.read_text())
    begins = {
        READING: f'STUDY = "{QUICK_START.relative_to(ROOT)}"',
        LOOKS: f'RUN = "{made["out"]}/seed-{made["seeds"][0]}',
    }
    for path, begin in begins.items():
        cells = nbformat.read(path, as_version=4).cells
        assert next(cell for cell in cells if cell.cell_type == "code").source.startswith(begin), path


def test_a_study_is_read_from_what_its_runs_have_left(tmp_path: Path) -> None:
    rows = {"router": ROUTER, "other router": ROUTER | {"set": {"k": 8}}, **FIXED}
    study = made_up_study(tmp_path, seeds=[0, 1, 2], rows=rows, reference="fixed 64")
    finish(study, lambda run: router_metrics(0.9 + run.seed / 100, 0.5, CHOICES))
    for run in plan(study):
        found, always_16 = outcomes(run.seed), {"router": torch.full((30,), LEVELS.index(16))}
        (run.directory / "outcomes.csv").write_text(outcomes_csv(found, always_16))
    notebook = executed(READING, STUDY=study.path)
    assert len(outputs(notebook, "image/png")) == 3
    table, by_kind = outputs(notebook, "text/html")
    # router: 90, 91, 92 %, and the finest level 93 % with each seed
    assert [number in table for number in ("91.0", "1.0", "-2.0", "93.0", "50.0")] == [True] * 5
    cells = by_kind.partition("<th>number</th>")[2].partition("</tr>")[0]
    assert [part.partition("<")[0] for part in cells.split("<td>")[1:]] == ["100.0", "100.0", "100.0", "16.0"]
