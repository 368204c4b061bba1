"""A checkpoint that is a folder, as sharded strategies write it: at every instant one is found."""

import os
from pathlib import Path

import pytest
import torch

from lit_avg.runs.run_folder import LAST_CHECKPOINT, checkpoint_path, is_sharded
from lit_avg.training.handover import read_checkpoint
from lit_avg.utils.atomic_io import bring_back, put_in_place


def write(folder: Path, step: int, sharded: bool = True) -> Path:
    """As FSDP does."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if sharded:
        folder.mkdir()
    torch.save({"global_step": step}, folder / "meta.pt" if sharded else folder)
    return folder


def found(run: Path) -> int:
    return read_checkpoint(checkpoint_path(str(run)))["global_step"]


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("after", [True, False])
def test_a_kill_between_any_two_steps_of_a_replacement_leaves_a_whole_checkpoint(
    before: bool, after: bool, tmp_path: Path
) -> None:
    """A process dies at its first, second … touch of the folder; another then finds one of the two."""
    for touches in range(1, 8):
        run = tmp_path / str(touches)
        last = write(run / LAST_CHECKPOINT, 1, before)
        new = write(last.with_name("last.ckpt.partial"), 2, after)
        child = os.fork()
        if child == 0:
            _die_at(touches)
            put_in_place(new, last)
            os._exit(0)
        died = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert found(run) in (1, 2)
        assert found(run / LAST_CHECKPOINT) == found(run)  # named by its file
        bring_back(last)
        assert last.exists()
        assert is_sharded(last) == ((before, after)[found(run) - 1])
        if died == 0:
            assert found(run) == 2
            assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"]
            return
    pytest.fail("the replacement never came to its end")


def _die_at(touches: int) -> None:
    import sys

    left = touches

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event in ("os.rename", "os.remove", "os.rmdir", "shutil.rmtree"):
            left -= 1
            if left == 0:
                os._exit(9)

    sys.addaudithook(hear)
