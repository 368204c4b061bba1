"""A checkpoint that is a folder, as sharded strategies write it: at every instant a whole one is found, or none."""

import os
import pickle
import shutil
import time
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.state_dict_saver import save

from lit_avg.runs.consolidation import ENTRIES_KEY, NAMES_KEY, SAVING_KEY, WHOLE_KEY, consolidate, weights_path
from lit_avg.runs.run_folder import LAST_CHECKPOINT, checkpoint_path
from lit_avg.runs.sharded_checkpoint import INDEX, Sharded, is_folder, parts_of, read_index, shared_file, write_index
from lit_avg.utils.atomic_io import bring_back, older_than, put_in_place
from lit_avg.utils.errors import UserError


def write(folder: Path, step: int, sharded: bool = True) -> Path:
    """As FSDP2 does, and `LastCheckpoint`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if sharded:
        folder.mkdir()
    torch.save({"global_step": step}, folder / "meta.pt" if sharded else folder)
    if sharded:
        write_index(folder, Sharded("0", "FSDP2", 2, step, parts_of(folder)))
    return folder


def found(run: Path) -> int:
    path = checkpoint_path(str(run))
    return torch.load(shared_file(path) if path.is_dir() else path)["global_step"]


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("after", [True, False])
def test_a_kill_between_any_two_steps_of_a_replacement_leaves_a_whole_checkpoint(
    before: bool, after: bool, tmp_path: Path
) -> None:
    """A process dies at its first, second … touch of the folder; another then finds one of the two."""
    for touches in range(1, 12):
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
        which = found(run) - 1
        if not last.exists():
            bring_back(last)
        assert last.exists()
        assert is_folder(last) == (before, after)[which]
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


def cut_short(folder: Path) -> str:
    """A machine that failed, a copy that was broken off."""
    os.truncate(folder / "meta.pt", 10)
    return "meta.pt has 10 bytes, but was saved with"


def half_gone(folder: Path) -> str:
    (folder / "meta.pt").unlink()
    return "meta.pt is missing"


def without_index(folder: Path) -> str:
    """As another program writes it, or a kill leaves it."""
    (folder / INDEX).unlink()
    return f"is a folder without {INDEX}"


def with_another_index(folder: Path) -> str:
    (folder / INDEX).write_text("{}")
    return "lacks saving"


@pytest.mark.parametrize("spoil", [cut_short, half_gone, without_index, with_another_index])
def test_a_torn_folder_is_refused_by_its_file_and_the_older_one_is_read_where_there_is_one(
    spoil: object, tmp_path: Path
) -> None:
    last = write(tmp_path / LAST_CHECKPOINT, 2)
    reason = spoil(last)  # pyright: ignore[reportCallIssue]  one of the functions above
    assert checkpoint_path(str(tmp_path)) == checkpoint_path(str(last)) == last
    with pytest.raises(UserError, match=reason):
        read_index(last)
    write(older_than(last), 1)
    assert found(tmp_path) == found(last) == 1
    bring_back(last)
    assert read_index(last).step == 1
    assert not older_than(last).exists()


def of_fsdp2(run: Path, value: float = 1.0) -> Path:
    """A folder with one trained tensor and its optimiser's state, and a buffer that is kept whole."""
    folder = run / LAST_CHECKPOINT
    folder.mkdir(parents=True)
    content = {"state_dict": {"weight": torch.full((2, 2), value, dtype=torch.bfloat16)}, "optimizer_0": {"lr": 0.1}}
    save(content, checkpoint_id=folder, no_dist=True)
    entries = {"global_step": 1, WHOLE_KEY: {"delta": torch.tensor(0.1, dtype=torch.double)}}
    entries |= {NAMES_KEY: ["delta", "weight"], ENTRIES_KEY: ["global_step", WHOLE_KEY, NAMES_KEY]}
    torch.save(entries, folder / "meta.pt")
    write_index(folder, Sharded(str(value), "FSDP2", 1, 1, parts_of(folder)))
    return folder


def test_weights_are_consolidated_once_by_one_of_many_and_again_when_the_folder_is_newer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noted(folder: Path, out: Path) -> None:
        time.sleep(0.2)
        with (tmp_path / "made").open("a") as file:
            file.write("made\n")
        consolidate(folder, out)

    monkeypatch.setattr("lit_avg.runs.consolidation.consolidate", noted)
    folder = of_fsdp2(tmp_path)
    children = list[int]()
    for _ in range(3):
        if (child := os.fork()) == 0:
            os._exit(weights_path(str(tmp_path)).name != "last.consolidated.ckpt")
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    assert (tmp_path / "made").read_text() == "made\n"
    content = torch.load(weights_path(str(tmp_path)), weights_only=True)
    assert list(content) == ["global_step", "state_dict", SAVING_KEY]
    assert list(content["state_dict"]) == ["delta", "weight"]
    assert content["state_dict"]["weight"].dtype == torch.float32
    assert content["state_dict"]["delta"].item() == 0.1  # no float32 has it
    shutil.rmtree(folder)
    of_fsdp2(tmp_path, 2.0)
    assert torch.load(weights_path(str(tmp_path)), weights_only=True)["state_dict"]["weight"][0, 0] == 2
    assert (tmp_path / "made").read_text() == "made\nmade\n"


class Evil:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.place,)


@pytest.mark.parametrize("where", [".metadata", "meta.pt", "an item", "of DeepSpeed"])
def test_a_checkpoint_that_holds_code_is_refused_and_none_of_it_is_run(where: str, tmp_path: Path) -> None:
    folder, evil = of_fsdp2(tmp_path), Evil(tmp_path / "was here")
    if where == ".metadata":
        (folder / where).write_bytes(pickle.dumps(evil))
    elif where == "meta.pt":
        torch.save({"evil": evil}, folder / where)
    elif where == "an item":
        save({"state_dict": {"weight": torch.ones(1)}, "evil": evil}, checkpoint_id=folder, no_dist=True)
    else:
        (folder / "checkpoint").mkdir()
        torch.save({"evil": evil}, folder / "checkpoint" / "mp_rank_00_optim_states.pt")
    write_index(folder, Sharded("evil", "FSDP2", 1, 1, parts_of(folder)))
    with pytest.raises(UserError, match="is refused"):
        weights_path(str(tmp_path))
    assert not evil.place.exists()
