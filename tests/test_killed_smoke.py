"""`lit-avg fit` of experiments/real-smoke/stage1, killed three times: on one process, under ZeRO-2 and under FSDP2."""

import json
import signal
from pathlib import Path

import pytest

from tests.continuation import Life, differences, live
from tests.drawn import drawn_shards
from tests.sharded_lives import live_on_two, strategy

ROOT = Path(__file__).parents[1]
CONFIG = str(ROOT / "experiments" / "real-smoke" / "stage1.yaml")
OFTEN = {"class_path": "callbacks.LastCheckpoint", "init_args": {"every_steps": 1}}
OPTIONS = [
    *("--trainer.max_steps", "-1", "--trainer.max_epochs", "3", "--trainer.accumulate_grad_batches", "2"),
    *("--trainer.val_check_interval", "4", "--trainer.limit_val_batches", "1"),
    f"--trainer.callbacks+={json.dumps(OFTEN)}",
]
LIVES = [Life("batch end", 5), Life("backward", 6), Life("optimizer", 2), Life()]
BATCHES = 15  # 3 epochs of 5: of 25 samples 21 are trained on


@pytest.mark.slow
def test_losses_of_three_epochs_are_to_the_last_bit_those_of_a_run_that_was_left_alone(tmp_path: Path) -> None:
    data = ["--data.init_args.train", str(drawn_shards(tmp_path, samples=25))]
    sharded = [
        (tmp_path / name / kind, CONFIG, [*OPTIONS, *data, *strategy(name)], lives)
        for name in ("zero2", "fsdp2")
        for kind, lives in (("whole", [Life()]), ("killed", LIVES))
    ]
    statuses = live_on_two(sharded)[0]
    one = tmp_path / "one"
    statuses += [live(one / "whole", CONFIG, [*OPTIONS, *data], [Life()])]
    statuses += [live(one / "killed", CONFIG, [*OPTIONS, *data], LIVES)]
    assert statuses == [[0], [-signal.SIGKILL] * 3 + [0]] * 3
    for name in ("zero2", "fsdp2", "one"):
        whole, killed = (tmp_path / name / kind / "stage1" for kind in ("whole", "killed"))
        assert len((whole / "losses.csv").read_text().splitlines()) == BATCHES + 1, name
        assert differences(whole, killed) == [], name
