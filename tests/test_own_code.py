"""The guide's example of callbacks of one's own, run as it stands there."""

import re
import sys
from pathlib import Path

import pytest

from lit_avg.cli import main
from lit_avg.config.saved_config import read_saved
from lit_avg.utils.yaml_reader import read_yaml
from tests.tiny_run import write_stage

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "experiments" / "README.md"

MINE = """
import lightning as L

class Alarm(L.Callback):
    def __init__(self, above: float) -> None:
        self.above = above

    def on_fit_end(self, trainer, pl_module) -> None:
        print(f"nothing was above {self.above}")
"""


def test_callbacks_of_ones_own_are_added_to_those_of_the_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"```yaml\n(# mine\.yaml.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "mine.yaml").write_text(example)
    (tmp_path / "mine.py").write_text(MINE)
    fit = ["fit", "--config", write_stage(tmp_path, "RGLF"), "--config", str(tmp_path / "mine.yaml")]

    assert "PYTHONPATH=." in example
    assert main(fit) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "mine" in told

    monkeypatch.syspath_prepend(tmp_path)  # as PYTHONPATH does
    assert main(fit) == 0
    assert "nothing was above 3.0" in capsys.readouterr().out
    run = tmp_path / "runs" / "RGLF"
    assert (run / "result.json").is_file()
    named = [callback["class_path"] for callback in read_saved(run / "config.yaml")["trainer"]["callbacks"]]
    of_base = read_yaml(ROOT / "experiments" / "base.yaml")["trainer"]["callbacks"]
    added = ["lightning.pytorch.callbacks.LearningRateMonitor", "mine.Alarm"]
    assert named == [*(callback["class_path"] for callback in of_base), *added]
    sys.modules.pop("mine", None)
