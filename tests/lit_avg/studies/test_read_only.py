"""Whoever may only read a study reads all of it: tables, figures, states, logs, differences."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lit_avg.cli import main
from tests.lit_avg.studies.launchers.test_local import sweep

WriteStudy = Callable[..., Path]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(disk)], capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount a file system")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(OSError, match="Read-only"):
        (disk / "file").touch()


@pytest.mark.parametrize("finished", [True, False])
def test_a_study_on_a_read_only_disk_is_read_as_any_other(
    disk: Path, finished: bool, write_study: WriteStudy, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if not finished:
        (tmp_path / "third.yaml").write_text("fail: true\n")
    study = write_study(out=str(disk / "study"))
    assert sweep(study) == (0 if finished else 1)
    read_only(disk)
    before = sorted(disk.rglob("*"))
    for form in ("text", "markdown", "latex", "csv", "html"):
        capsys.readouterr()
        assert main(["table", str(study), "--format", form]) == 0
        out, err = capsys.readouterr()
        assert out
        assert len(err.splitlines()) <= 1
    assert main(["status", str(study)]) == 0
    assert main(["logs", str(study), "first"]) == 0
    runs = [str(disk / "study" / "seed-0" / name) for name in ("first", "second")]
    assert main(["compare", *runs]) == 0
    capsys.readouterr()
    assert main(["figures", str(study)]) == 0
    drawn = [Path(line) for line in capsys.readouterr().out.splitlines() if line.endswith(".png")]
    assert drawn
    assert all(path.is_file() and disk not in path.parents for path in drawn)
    assert main(["figures", str(study), "--out", str(tmp_path / "drawn")]) == 0
    assert sorted(path.name for path in (tmp_path / "drawn").glob("*.png")) == sorted(path.name for path in drawn)
    assert sorted(disk.rglob("*")) == before


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}", b'{"metrics": "\xff"}'])
def test_a_damaged_result_is_not_done_and_made_anew(
    damage: bytes, write_study: WriteStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study()
    assert sweep(study) == 0
    result = tmp_path / "out" / "seed-0" / "third" / "result.json"
    whole = result.read_bytes()
    result.write_bytes(damage)
    os.utime(result, ns=(1, 1))
    capsys.readouterr()
    assert main(["status", str(study)]) == 0
    assert "1 failed" in capsys.readouterr().out
    assert sweep(study) == 0
    assert result.read_bytes() == whole
    assert (tmp_path / "out" / "replaced" / "seed-0-third-1" / "result.json").read_bytes() == damage
