"""Files and folders appear whole or not at all, and with the permissions and the group of any new one."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from lit_avg.utils.atomic_io import bring_back, move, obey_umask, put_in_place, whole_file, whole_folder, write_whole
from tests.second_user import modes, under_umask

OF_UMASK = [(0o022, "0o755", "0o644"), (0o002, "0o775", "0o664"), (0o077, "0o700", "0o600")]


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def secretly(path: Path, content: bytes) -> None:
    """Write as libraries do that use a temporary file: another one, for its owner alone."""
    other = path.with_name("other")
    other.write_bytes(content)
    other.chmod(0o600)
    other.replace(path)


@pytest.mark.parametrize(("umask", "folders", "files"), OF_UMASK)
def test_what_is_written_has_the_permissions_of_any_new_file(
    umask: int, folders: str, files: str, tmp_path: Path
) -> None:
    with under_umask(umask):
        write_whole(tmp_path / "in" / "text.txt", "é")
        with whole_file(tmp_path / "in" / "library.bin") as partial:
            secretly(partial, b"1")
        with whole_folder(tmp_path / "in" / "folder") as partial:
            (partial / "below").mkdir(0o700)
            secretly(partial / "below" / "model.bin", b"2")
    assert modes(tmp_path) == {"folders": {folders}, "files": {files}}
    assert (tmp_path / "in" / "text.txt").read_bytes() == "é".encode()
    assert names(tmp_path / "in") == ["folder", "folder/below", "folder/below/model.bin", "library.bin", "text.txt"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a folder to a group that it is not in")
def test_a_folder_that_hands_its_group_on_does_so_for_whatever_is_written(tmp_path: Path) -> None:
    group, elsewhere = 54321, tmp_path / "of the owner's group"
    shared = tmp_path / "shared"
    shared.mkdir()
    os.chown(shared, -1, group)
    shared.chmod(0o2775)
    elsewhere.write_bytes(b"1")
    with under_umask(0o002):
        write_whole(shared / "new" / "text.txt", "")
        with whole_file(shared / "moved.bin") as partial:
            elsewhere.replace(partial)  # as fsspec does with its temporary file
        with whole_folder(shared / "folder") as partial:
            (partial / "model.bin").write_bytes(b"")
    assert {path.stat().st_gid for path in shared.rglob("*")} == {group}
    found = {path.name: oct(path.stat().st_mode & 0o7777) for path in shared.rglob("*")}
    assert {found.pop("new"), found.pop("folder")} == {"0o2775"}
    assert set(found.values()) == {"0o664"}


def test_a_folder_that_others_have_written_into_is_left_as_it_is_but_for_its_permissions(tmp_path: Path) -> None:
    secretly(tmp_path / "a.bin", b"1")
    (tmp_path / "link").symlink_to("nowhere")
    with under_umask(0o022):
        obey_umask(tmp_path)
    assert names(tmp_path) == ["a.bin", "link"]
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o644


def fill_disk(partial: Path) -> None:
    partial.write_bytes(b"half")
    raise OSError(errno.ENOSPC, "No space left on device", "/tmp/temporary")


def fill_disk_in_rust(partial: Path) -> None:
    partial.write_bytes(b"half")
    raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("write", [fill_disk, fill_disk_in_rust])
def test_a_full_disk_leaves_the_older_file_and_is_told_of_that(write: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "older")

    def replaced() -> None:
        with whole_file(path) as partial:
            write(partial)

    with pytest.raises(OSError, match="No space left on device") as refused:
        replaced()
    assert (refused.value.errno, refused.value.filename) == (errno.ENOSPC, str(path))
    assert (names(tmp_path), path.read_text()) == (["file"], "older")


def test_a_file_that_is_missed_while_another_is_written_is_told_by_its_own_name(tmp_path: Path) -> None:
    def copied() -> None:
        with whole_folder(tmp_path / "folder") as partial:
            (partial / "copy").write_bytes((tmp_path / "source").read_bytes())

    with pytest.raises(FileNotFoundError, match="source"):
        copied()
    assert names(tmp_path) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from lit_avg.utils.atomic_io import whole_file, whole_folder
path, kind = Path(sys.argv[1]), sys.argv[2]
fixed = path.with_name("fixed.partial") if kind == "fixed" else None
with whole_folder(path, replace=True) if kind == "folder" else whole_file(path, partial=fixed) as partial:
    (partial / "a" if kind == "folder" else partial).write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["file", "folder", "fixed"])
def test_a_kill_leaves_the_older_one_and_what_it_left_is_in_nobodys_way(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "it"
    if kind == "folder":
        path.mkdir()
        (path / "a").write_text("older")
    else:
        path.write_text("older")
    killed = subprocess.run([sys.executable, "-c", KILLED, path, kind], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (path / "a" if kind == "folder" else path).read_text() == "older"
    (left,) = [found for found in tmp_path.iterdir() if found != path]
    assert left.name.endswith(".partial")
    if kind == "folder":
        with whole_folder(path, replace=True) as partial:
            (partial / "b").write_text("newer")
        assert names(path) == ["b"]
    else:
        write_whole(path, "newer", partial=left if kind == "fixed" else None)
        assert path.read_text() == "newer"
    assert left.exists() == (kind != "fixed")


def test_a_folder_that_is_there_is_not_replaced_unless_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("older")

    def written() -> None:
        with whole_folder(tmp_path / "folder") as partial:
            (partial / "a").write_text("newer")

    with pytest.raises(OSError, match="not empty"):
        written()
    assert (names(tmp_path), (tmp_path / "folder" / "a").read_text()) == (["folder", "folder/a"], "older")


@pytest.mark.parametrize("fails", [False, True])
def test_an_empty_folder_is_filled_as_it_is(fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    number = tmp_path.stat().st_ino

    def written() -> None:
        with whole_folder(Path()) as partial:
            (partial / "below").mkdir()
            (partial / "below" / "a").touch()
            (partial / "b").touch()
            if fails:
                raise OSError(errno.ENOSPC, "")

    with pytest.raises(OSError, match="No space left") if fails else nullcontext():
        written()
    assert tmp_path.stat().st_ino == number
    assert names(tmp_path) == ([] if fails else ["b", "below", "below/a"])


def test_between_the_steps_of_a_replacement_the_older_folder_is_found_beside_its_place(tmp_path: Path) -> None:
    older, new = tmp_path / "it", tmp_path / "new"
    for folder in (older, new):
        folder.mkdir()
        (folder / folder.name).touch()
    move(older, tmp_path / "it.older")  # and then its process was killed
    bring_back(older)
    assert names(older) == ["it"]
    put_in_place(new, older)
    bring_back(older)
    assert names(tmp_path) == ["it", "it/new"]
