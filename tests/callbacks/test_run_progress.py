import re
from pathlib import Path

import pytest

from callbacks import run_progress
from lit_avg.cli import main
from tests.tiny_run import write_stage


def fit(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    capsys.readouterr()
    assert main(["fit", "--config", write_stage(folder, "RGLF"), *options]) == 0
    return capsys.readouterr().out


def test_the_lines_say_what_is_trained_how_far_it_is_and_how_it_went(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *steps, judged, saved = fit(tmp_path, capsys).splitlines()
    assert first == "RGLF · RGLF trains router: 4,456 of 27,400 parameters"
    shown = [re.fullmatch(r"RGLF · RGLF · fit (\d)/3 · loss \d+\.\d{3} · 0:\d\d", line) for line in steps]
    assert [match[1] for match in shown if match] == ["1", "2", "3"]
    assert re.fullmatch(r"RGLF · RGLF · step 3 · val/loss \d+\.\d{3} · val/accuracy 0\.\d{3}", judged)
    assert re.fullmatch(r"RGLF · checkpoint of \d+ kB saved in \d+\.\d s", saved)


def test_a_log_gets_ten_lines_of_steps_however_long_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = fit(tmp_path, capsys, "--trainer.max_steps", "25")
    assert re.findall(r"fit (\d+)/25", output) == ["3", "5", "8", "10", "13", "15", "18", "20", "23", "25"]


def test_the_progress_bar_can_be_turned_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage4 = write_stage(tmp_path, "RGLF")
    overlay = tmp_path / "quiet.yaml"
    overlay.write_text("trainer: {callbacks: [{class_path: callbacks.LastCheckpoint}], enable_progress_bar: false}")
    capsys.readouterr()
    assert main(["fit", "--config", stage4, "--config", str(overlay)]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("seconds", "clock"), [(0.9, "0:00"), (61, "1:01"), (3725, "1:02:05")])
def test_the_clock_reads_like_a_clock(seconds: float, clock: str) -> None:
    assert run_progress._clock(seconds) == clock
