"""A packing that is killed, or done by another number of processes, ends in the same bytes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datamodules.packing.command import main
from datamodules.packing.journal import Partial, Progress, partial_folder
from datamodules.packing.pack import PackJob, pack
from datamodules.packing.roots import ImageRoot
from datamodules.shards.manifest import read_manifest
from lit_avg.utils.errors import UserError
from tests.drawn import draw_llava

SAMPLES = 360


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def options(raw: Path, out: Path, *more: str) -> list[str]:
    images = ["--annotations", str(raw / "drawn.json"), "--images", str(raw / "images"), "--out", str(out)]
    return [*images, "--shard-size-mb", "0.1", "--val-share", "0.2", "--max-rejects", "0.1", *more]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Drawn samples, one of them with a broken image."""
    annotations, images = draw_llava(tmp_path / "raw", SAMPLES)
    (images / "7.png").write_bytes((images / "7.png").read_bytes()[:100])
    return annotations.parent


@pytest.fixture
def undisturbed(raw: Path, tmp_path: Path) -> dict[str, bytes]:
    assert main(options(raw, tmp_path / "undisturbed", "--workers", "1")) == 0
    return contents(tmp_path / "undisturbed")


def test_the_number_of_workers_changes_no_byte(raw: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    assert main(options(raw, tmp_path / "out", "--workers", "3")) == 0
    assert contents(tmp_path / "out") == undisturbed
    assert len(read_manifest(tmp_path / "out" / "train").shards) > 3
    assert [json.loads(line)["id"] for line in undisturbed["rejects.jsonl"].splitlines()] == ["drawn-7"]


def shards_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("train/*.tar"))


def finished(partial: Path) -> int:
    journal = partial / ".journal.json"
    return len(json.loads(journal.read_text())["progress"]["writers"]["train"]["shards"]) if journal.is_file() else 0


def kill_at_shard(count: int, command: list[str], partial: Path) -> list[int]:
    """Run until so many shards are finished, kill, and say which processes it had."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None and finished(partial) < count:
        time.sleep(0.001)
    assert process.poll() is None, "it was over before it could be killed"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    return [int(child) for child in children]


def is_running(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_killed_packing_goes_on_and_ends_in_the_same_bytes(
    raw: Path, undisturbed: dict[str, bytes], tmp_path: Path, workers: str
) -> None:
    out = tmp_path / "out"
    partial = partial_folder(out)
    command = [sys.executable, "-m", "lit_avg.cli", "shard", *options(raw, out, "--workers", workers)]
    kept: list[tuple[str, int]] = []
    for shards in (1, 2, 4):
        children = kill_at_shard(shards, command, partial)
        assert not out.exists()
        assert [(path.name, path.stat().st_mtime_ns) for path in shards_of(partial)][: len(kept)] == kept
        kept = [(path.name, path.stat().st_mtime_ns) for path in shards_of(partial)][: finished(partial)]
        assert len(kept) >= shards
        deadline = time.monotonic() + 30
        while any(is_running(child) for child in children):
            assert time.monotonic() < deadline, "the workers outlive their parent"
            time.sleep(0.05)
    assert main(options(raw, out, "--workers", "1")) == 0
    assert [(path.name, path.stat().st_mtime_ns) for path in shards_of(out)][: len(kept)] == kept
    assert contents(out) == undisturbed
    assert not partial.exists()


def test_of_many_small_shards_the_journal_takes_no_more_time_than_they_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotations, images = draw_llava(tmp_path / "raw", SAMPLES)
    save, saved = Partial.save, list[int]()

    def on_a_slow_disk(partial: Partial, progress: Progress) -> None:
        time.sleep(0.1)
        saved.append(progress.report.records)
        save(partial, progress)

    monkeypatch.setattr(Partial, "save", on_a_slow_disk)
    begin = time.monotonic()
    pack(PackJob((annotations,), (ImageRoot(images),), shard_bytes=1), tmp_path / "out")
    seconds = time.monotonic() - begin
    assert len(read_manifest(tmp_path / "out").shards) == SAMPLES
    # the first shard's, the last, and between them at most as much time in the journal as beside it
    assert len(saved) <= 2 + seconds / 2 / 0.1
    assert saved[0] == 2  # the first shard is closed when there is no room for the second sample
    assert saved[-1] == SAMPLES


def test_a_packing_that_was_begun_with_other_settings_is_not_mixed_with(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused = options(raw, out, "--workers", "1", "--max-rejects", "0")
    with pytest.raises(UserError, match=r"1 of 360 records refused \(0\.28%, 1 × image broken\), more than"):
        main(refused)
    assert not out.exists()
    with pytest.raises(UserError, match=r"begun with other shard_bytes; .* --overwrite"):
        main([*refused, "--shard-size-mb", "10"])
    assert main([*refused, "--shard-size-mb", "10", "--overwrite", "--max-rejects", "0.1"]) == 0
    assert len(read_manifest(out / "train").shards) == 1


def test_what_was_refused_too_often_is_taken_as_it_is_when_that_is_allowed(
    raw: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"out\.partial/rejects\.jsonl; the same command with a higher --max-rejects"):
        main(options(raw, out, "--workers", "1", "--max-rejects", "0"))
    (raw / "images" / "0.png").unlink()  # nothing is read again
    assert main(options(raw, out, "--workers", "1")) == 0
    assert contents(out) == undisturbed


def test_two_packings_do_not_write_into_one_folder(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = PackJob((raw / "drawn.json",), (ImageRoot(raw / "images"),))
    other: list[str] = []

    def meet(*_: object) -> None:
        with pytest.raises(UserError, match="another process is packing into"):
            pack(job, out, max_rejects=1)
        other.append("refused")

    pack(job, out, max_rejects=1, watch=meet)
    assert other
    assert read_manifest(out).samples == SAMPLES - 1


def test_leftovers_of_a_kill_at_the_very_end_are_cleared_away(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(options(raw, out, "--workers", "1")) == 0
    before = contents(out)
    (out / ".journal.json").write_text("{}")
    (out / ".indexes").mkdir()
    assert main(options(raw, out, "--workers", "1")) == 0
    assert contents(out) == before
    assert sorted(path.name for path in out.iterdir()) == ["rejects.jsonl", "train", "val"]
