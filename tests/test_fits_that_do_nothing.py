"""A fit that would train nothing, or never be validated, is refused before it begins."""

from pathlib import Path

import pytest

from lit_avg.cli import main
from tests.tiny_run import write_stage


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--trainer.max_steps", "0", "--trainer.val_check_interval", "1"], "trainer.max_steps"),
        (["--trainer.max_epochs", "0"], "trainer.max_epochs"),
        (["--trainer.limit_train_batches", "0"], "trainer.limit_train_batches"),
        (["--trainer.val_check_interval", "4"], "is 4 batches, but the run ends after 3"),
        (
            ["--trainer.val_check_interval", "7", "--trainer.accumulate_grad_batches", "2"],
            "is 7 batches, but the run ends after 6",
        ),
        (  # 4 batches an epoch
            ["--trainer.max_steps", "-1", "--trainer.max_epochs", "2", "--trainer.val_check_interval", "9"],
            "is 9 batches, but the run ends after 8",
        ),
    ],
)
def test_a_fit_that_would_do_nothing_is_refused(
    options: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", write_stage(tmp_path, "InstructionTuning"), *options]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line
    assert not list(tmp_path.glob("runs/*/checkpoints/*"))


def test_without_validation_its_interval_does_not_matter(tmp_path: Path) -> None:
    options = ["--trainer.val_check_interval", "9", "--trainer.limit_val_batches", "0"]
    assert main(["fit", "--config", write_stage(tmp_path, "InstructionTuning"), *options]) == 0
