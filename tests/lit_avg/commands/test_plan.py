from pathlib import Path

import pytest

from lit_avg.cli import main
from lit_avg.commands.check import check
from tests.tiny_run import write_stage

ROOT = Path(__file__).parents[3]


def planned(capsys: pytest.CaptureFixture[str], *options: str, status: int = 0) -> tuple[list[str], str]:
    """Lines of a plan, and what was said to be wrong."""
    capsys.readouterr()
    assert main(["plan", *options]) == status
    said = capsys.readouterr()
    return [" ".join(line.split()) for line in said.out.splitlines()], said.err


def value(lines: list[str], name: str, column: int) -> float:
    (row,) = (line.removeprefix(name).split() for line in lines if line.startswith(f"{name} "))
    return float(row[column].replace(",", ""))


def test_the_papers_second_stage_fits_eight_h100(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    lines, _ = planned(capsys, "--config", "experiments/vicuna-7b/stage2.yaml", "--gpu", "h100")
    assert value(lines, "weights", 0) == pytest.approx(7.18e9 * 2 / 8 / 2**30, rel=0.02)  # ZeRO-3, bfloat16
    assert value(lines, "optimiser", 0) == pytest.approx(7.06e9 * 12 / 8 / 2**30, rel=0.02)
    # three times forward and once recomputed, 2 x 6.5e9 FLOPs a token besides attention, 3,248 tokens, 128 samples
    assert value(lines, "llm", 3) == pytest.approx(4 * 2 * 6.5e9 * 3248 * 128 / 1e12, rel=0.15)
    (ddp,) = (line for line in lines if line.startswith("ddp "))
    assert ddp.endswith("no")
    assert next(line for line in lines if line.endswith(("yes", "no"))).endswith("yes")  # the best comes first
    assert any(line.startswith("the run of 7,797 steps: ") for line in lines)


def test_what_fits_nowhere_is_told_in_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    options = ("--config", "experiments/jersey/stage3.yaml", "--memory", "2.001")
    _, error = planned(capsys, *options, status=2)
    assert error.startswith("lit-avg: nothing fits: ")
    assert len(error.splitlines()) == 1


def test_a_router_that_learns_from_a_store_needs_no_llm(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    stage4 = ("--config", "experiments/jersey/stage4.yaml", "--gpu", "4090")
    live, _ = planned(capsys, *stage4)
    stored, _ = planned(capsys, *stage4, "--model.init_args.feedback", "runs/jersey/feedback")
    assert any(line.startswith("feedback on 6,500 samples") for line in live)
    assert any(line.startswith("llm ") for line in live)
    assert not any(line.startswith(("llm ", "feedback ")) for line in stored)
    flops = [[line for line in lines if line.startswith("router ")][-1] for lines in (live, stored)]
    assert flops[0] == flops[1]


def test_data_that_cannot_say_how_large_it_is_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, error = planned(capsys, "--config", write_stage(tmp_path, "RGLF"), status=2)
    assert "TinyData cannot say how large its samples are" in error


def test_a_study_knows_what_a_router_saves_that_learns_from_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    flops = check(["--config", "experiments/vicuna-7b/stage4.yaml"])["flops"]
    assert flops["stored"] < 0.2 * flops["fit"]
    assert flops["feedback"] == pytest.approx(flops["fit"], rel=0.1)  # the same samples once, and no router
