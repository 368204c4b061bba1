"""A rank that dies ends the job, and what it died of is said last, also where the others wait for what never comes."""

import os
import signal
import time
from pathlib import Path

import lightning as L
import pytest

from lit_avg.batch import Batch
from lit_avg.cli import main
from tests.killing import kill
from tests.tiny_run import write_stage
from tests.two_ranks import on_ranks

TOLD = {
    "killed": "rank 1 ended without a word, as a process does that is killed, often because memory has run out",
    "broken": "rank 1 stopped: sample 7 is on fire",
    "killed while the other sleeps": "rank 1 ended without a word",
}


class Dying(L.Callback):
    """The second of two ranks comes to an end in its second step; the first goes on, or sleeps as NCCL does."""

    def __init__(self, how: str) -> None:
        self.how = how

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        if batch_idx != 1:
            return
        if trainer.global_rank == 1:
            Path("died").touch()
        if trainer.global_rank == 0:
            time.sleep(90 if self.how == "killed while the other sleeps" else 0)
        elif self.how == "broken":
            raise RuntimeError("sample 7 is on fire")
        else:
            kill()


def fit(config: str, folder: str, how: str) -> None:
    """A fit whose standard error goes into a file of the rank's."""
    rank = os.environ["LOCAL_RANK"]
    file = os.open(f"{folder}/said{rank}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 2)
    os.chdir(folder)
    dying = f'{{"class_path": "tests.lit_avg.training.test_rank_watch.Dying", "init_args": {{"how": "{how}"}}}}'
    options = ["--trainer.devices", "2", "--trainer.strategy", "ddp", f"--trainer.callbacks+={dying}"]
    raise SystemExit(main(["fit", "--config", config, "--run_root", f"{folder}/runs", *options]))


@pytest.mark.slow
@pytest.mark.parametrize("how", TOLD)
def test_a_rank_that_dies_ends_the_others_and_its_reason_is_what_they_say_last(tmp_path: Path, how: str) -> None:
    first, second = on_ranks(2, tmp_path / "marks", fit, write_stage(tmp_path, "RGLF"), str(tmp_path), how)
    assert time.time() - (tmp_path / "died").stat().st_mtime < 60
    assert (first, second) == (1, 1 if how == "broken" else -signal.SIGKILL)
    assert (tmp_path / "said0").read_text().splitlines()[-1].startswith(f"lit-avg: {TOLD[how]}")
    if how == "broken":
        assert (tmp_path / "said1").read_text().splitlines()[-1] == "RuntimeError: sample 7 is on fire"
