"""One run of stage 4, looked at from all sides."""

from pathlib import Path

import pytest

from lit_avg.cli import main
from tests.tiny_run import write_stage


@pytest.fixture(scope="session")
def tested_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a stage 4 of four steps, validated twice and tested."""
    folder = tmp_path_factory.mktemp("callbacks")
    stage4 = write_stage(folder, "RGLF")
    options = ["--trainer.max_steps", "4", "--trainer.val_check_interval", "2", "--trainer.log_every_n_steps", "2"]
    assert main(["fit", "--config", stage4, *options]) == 0
    assert main(["test", "--config", stage4]) == 0
    return folder / "runs" / "RGLF"
