"""Hashes of files: read once, and never taken for those of another content."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lit_avg.utils import hashing as file_hashes
from lit_avg.utils.hashing import file_sha256, keep_sha256, kept_of_files, known_sha256


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIT_AVG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that were read whole."""
    read = list[Path]()

    def noting(path: Path) -> str:
        read.append(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(file_hashes, "read_sha256", noting)
    return read


BYTES = 2**20
"""A file as large as that has its hash kept on the disk."""


def content(text: bytes) -> bytes:
    return text * (BYTES // len(text) + 1)


def sha256(text: bytes) -> str:
    return hashlib.sha256(content(text)).hexdigest()


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a new process knows: nothing but what is on the disk."""
    monkeypatch.setattr(file_hashes, "_known", {})


def test_a_file_is_read_once_by_all_processes_together(
    tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(content(b"abc"))
    assert file_sha256(path) == sha256(b"abc") == file_sha256(path)
    forget(monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert file_sha256(Path("a.tar")) == sha256(b"abc")
    assert reads == [path]
    script = "import sys, pathlib; from lit_avg.utils import hashing as h\n"
    script += "h.read_sha256 = lambda path: 'read again'; print(h.file_sha256(pathlib.Path(sys.argv[1])))"
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == sha256(b"abc")


def written_in_place(path: Path, other: Path) -> None:
    with path.open("r+b") as file:
        file.write(other.read_bytes())


def moved_over(path: Path, other: Path) -> None:
    other.replace(path)


def copied_with_its_times(path: Path, other: Path) -> None:
    found = path.stat()
    shutil.copy2(other, path)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def moved_over_with_its_times(path: Path, other: Path) -> None:
    found = path.stat()
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    other.replace(path)


def linked_elsewhere(path: Path, other: Path) -> None:
    path.unlink()
    path.symlink_to(other)


@pytest.mark.parametrize(
    "change", [written_in_place, moved_over, copied_with_its_times, moved_over_with_its_times, linked_elsewhere]
)
@pytest.mark.parametrize("new_process", [False, True])
def test_another_content_of_the_same_length_is_noticed_however_it_got_there(
    change: object, new_process: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "a.tar", tmp_path / "other.tar"
    path.write_bytes(content(b"one"))
    other.write_bytes(content(b"two"))
    assert file_sha256(path) == sha256(b"one")
    assert callable(change)
    change(path, other)
    if new_process:
        forget(monkeypatch)
    assert file_sha256(path) == sha256(b"two")


def test_what_is_known_of_a_file_is_told_without_reading_it_unless_it_is_small(
    tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(content(b"abc"))
    small.write_bytes(b"abc")
    assert (known_sha256(large), reads) == (None, [])
    assert file_sha256(large) == sha256(b"abc")
    forget(monkeypatch)
    assert (known_sha256(large), reads) == (sha256(b"abc"), [large])
    assert known_sha256(small) == hashlib.sha256(b"abc").hexdigest()


def test_a_file_that_is_written_to_at_once_after_it_was_read_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    for number in range(50):
        path.write_bytes(b"%09d" % number)
        assert file_sha256(path) == hashlib.sha256(b"%09d" % number).hexdigest()


@pytest.mark.parametrize("note", [b"", b"[]", b'{"path": 1}', b"\xff"])
def test_a_broken_note_is_as_good_as_none(
    note: bytes, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(content(b"abc"))
    file_sha256(path)
    (kept,) = (cache / "file_hashes").iterdir()
    kept.write_bytes(note)
    forget(monkeypatch)
    assert file_sha256(path) == sha256(b"abc")


def test_without_a_folder_that_can_be_written_the_hash_is_told_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(content(b"abc"))
    monkeypatch.setenv("LIT_AVG_CACHE", str(path))  # no folder, and none can be made
    assert file_sha256(path) == sha256(b"abc")
    keep_sha256(path, "0" * 64)
    assert file_sha256(path) == "0" * 64  # within this process
    monkeypatch.setenv("LIT_AVG_CACHE", "")
    monkeypatch.setattr(Path, "home", no_home)
    forget(monkeypatch)
    assert file_sha256(path) == sha256(b"abc")


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_notes_can_be_read_by_all_whom_the_umask_lets(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(content(b"abc"))
    before = os.umask(0o002)
    try:
        file_sha256(path)
    finally:
        os.umask(before)
    (kept,) = (cache / "file_hashes").iterdir()
    assert (kept.stat().st_mode & 0o777, kept.parent.stat().st_mode & 0o777) == (0o664, 0o775)


def test_a_file_that_is_not_there_is_told_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a\.tar"):
        file_sha256(tmp_path / "a.tar")


def test_what_is_found_out_of_files_is_known_until_one_of_them_changes(tmp_path: Path) -> None:
    files = [tmp_path / "one", tmp_path / "two"]
    for file in files:
        file.write_bytes(bytes(2**20))
    asked: list[str] = []

    def find_out() -> str:
        asked.append("read")
        return f"found {len(asked)}"

    assert [kept_of_files(files, "hash", find_out) for _ in range(3)] == ["found 1"] * 3
    assert kept_of_files(files, "something else", find_out) == "found 2"
    files[1].write_bytes(bytes(2**20) + b"more")
    assert kept_of_files(files, "hash", find_out) == "found 3"
