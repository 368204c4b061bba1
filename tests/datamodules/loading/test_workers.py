"""Workers do not outlive the process that started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.drawn import drawn_shards

STARTED = """
import multiprocessing, sys, time
from datamodules.llava_shards import LLaVAShards
multiprocessing.set_start_method(sys.argv[2])
data = LLaVAShards(train=sys.argv[1], tokenizer="jersey", batch_size=1, tile_size=16, grid_pinpoints=None, workers=2)
batches = iter(data.train_dataloader())
next(batches)
print(*(process.pid for process in multiprocessing.active_children()), flush=True)
time.sleep(600)
"""


def is_running(process: int) -> bool:
    state = Path(f"/proc/{process}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("start_method", ["fork", "forkserver"])  # a shell's run, and one that a sweep has started
def test_workers_die_with_a_parent_that_is_killed(start_method: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTED, str(drawn_shards(tmp_path, 12)), start_method]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        workers = [int(number) for number in parent.stdout.readline().split()]
        assert len(workers) == 2
        assert all(is_running(worker) for worker in workers)
        parent.send_signal(signal.SIGKILL)
    end = time.monotonic() + 60  # torch's workers look for their parent every five seconds
    while any(is_running(worker) for worker in workers) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(is_running(worker) for worker in workers)
