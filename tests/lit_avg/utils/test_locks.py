"""Locks: one owner at a time, none that outlives its process, and two users of a machine on one of them."""

import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from lit_avg.utils.errors import UserError
from lit_avg.utils.locks import BusyError, file_lock, lock_of, locked, owner_of
from tests.second_user import as_second_user, under_umask

fork = multiprocessing.get_context("fork")


def is_free(path: Path) -> bool:
    try:
        with file_lock(path, wait=False):
            return True
    except BusyError:
        return False


def hold_with_a_child(path: Path, told: Connection) -> None:
    """Hold a lock until killed, with a child that lives on."""
    with file_lock(path), locked(path.with_name("run")):
        child = fork.Process(target=time.sleep, args=(60,))
        child.start()
        told.send(child.pid)
        time.sleep(60)


def test_a_lock_goes_with_its_process_though_a_child_of_it_lives_on(tmp_path: Path) -> None:
    ours, theirs = fork.Pipe()
    holder = fork.Process(target=hold_with_a_child, args=(tmp_path / "lock", theirs))
    holder.start()
    child: int = ours.recv()
    owner = owner_of(tmp_path / "run")
    assert owner is not None
    assert (owner.pid, is_free(tmp_path / "lock")) == (holder.pid, False)
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    try:
        os.kill(child, 0)  # it is there
        assert (owner_of(tmp_path / "run"), is_free(tmp_path / "lock")) == (None, True)
    finally:
        os.kill(child, signal.SIGKILL)


def test_threads_take_turns_as_processes_do(tmp_path: Path) -> None:
    inside, most = list[int](), list[int]()

    def work() -> None:
        for _ in range(20):
            with file_lock(tmp_path / "lock"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(most), max(most)) == (80, 1)


def test_a_run_that_is_held_may_be_held_again_by_its_own_process_and_then_is_free(tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        with locked(tmp_path / "run"):
            assert not is_free(lock_of(tmp_path / "run"))
        assert not is_free(lock_of(tmp_path / "run"))
    assert is_free(lock_of(tmp_path / "run"))


def test_being_busy_with_something_else_is_not_taken_for_this_lock(tmp_path: Path) -> None:
    begun = list[str]()

    def work() -> None:
        with locked(tmp_path / "run"):
            begun.append("once")
            raise BusyError("another")

    with pytest.raises(BusyError, match="another"):
        work()
    assert begun == ["once"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664)])
def test_a_lock_file_is_for_whom_the_umask_lets(umask: int, mode: int, tmp_path: Path) -> None:
    with under_umask(umask), file_lock(tmp_path / "locks" / "lock"), locked(tmp_path / "run"):
        pass
    found = [path.stat().st_mode & 0o777 for path in (tmp_path / "locks" / "lock", lock_of(tmp_path / "run"))]
    assert found == [mode, mode]


def refusal(call: Callable[[Path], object], path: Path) -> str:
    try:
        call(path)
    except UserError as error:
        return str(error)
    return ""


def run_a_fit(folder: Path) -> None:
    with locked(folder):
        pass


def test_two_users_are_held_apart_by_a_lock_that_the_second_may_only_read(open_folder: Path) -> None:
    path = open_folder / "lock"
    with under_umask(0o022), file_lock(path):
        assert not as_second_user(is_free, path)
    assert as_second_user(is_free, path)


def test_a_second_user_is_told_whose_folder_it_is(open_folder: Path) -> None:
    run, new = open_folder / "run", open_folder / "new"
    with under_umask(0o022), locked(run):
        owner = as_second_user(owner_of, run)
        assert owner is not None
        assert owner.pid == os.getpid()
    assert as_second_user(owner_of, run) is None
    assert f"{run} is another user's: you may not write to" in as_second_user(refusal, run_a_fit, run)
    assert "cannot be opened (Permission denied); have whom" in as_second_user(refusal, is_free, new)


def test_a_run_is_not_held_on_a_disk_that_has_no_room_for_who_holds_it_and_the_lock_is_named(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / ".run.lock").write_text("{}")
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # the kernel refuses each byte
    try:
        with pytest.raises(OSError, match=r"File too large: .*\.run\.lock'"), locked(tmp_path / "run"):
            pytest.fail("it is held")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert is_free(lock_of(tmp_path / "run"))
    with locked(tmp_path / "run"):
        assert owner_of(tmp_path / "run") is not None
