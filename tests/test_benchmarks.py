from pathlib import Path

import pytest

from benchmarks.studies import STUDY, made_up
from lit_avg import cli


def test_the_study_that_commands_are_timed_on_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(STUDY, "seeds", [0, 1])
    monkeypatch.setitem(STUDY, "axes", {"k": [0, 8], "alpha": [0.1]})
    study = made_up(tmp_path, questions=4)
    assert cli.main(["status", str(study.path)]) == 0
    assert "16 runs: 16 done" in capsys.readouterr().out
    assert cli.main(["table", str(study.path)]) == 0
    assert "k 8, α 0.1" in capsys.readouterr().out
