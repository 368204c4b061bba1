"""A study knows the data of its runs: what was replaced is run anew, and what was only copied is not."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lit_avg.commands import sweep as sweep_command
from lit_avg.studies.runs.plan import plan, unchecked
from lit_avg.studies.runs.run_record import states
from lit_avg.studies.spec.fingerprint import Checked, code_hash, read_checked, write_checked
from lit_avg.studies.spec.study import Study, load_study
from lit_avg.utils import hashing as file_hashes
from tests.lit_avg.studies.toy_command import toy_command

WriteStudy = Callable[..., Path]

LARGE = 2**20 + 1
"""Bytes of a file that is not hashed to show a table."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_AVG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    (tmp_path / "data.tar").write_bytes(b"a" * LARGE)
    return tmp_path / "data.tar"


@pytest.fixture
def study(write_study: WriteStudy, tmp_path: Path, tar: Path) -> Path:
    (tmp_path / "data.yaml").write_text(f"data: {tar}\n")
    runs = {"first": {"configs": ["first.yaml", "data.yaml"], "test": True}}
    return write_study(runs=runs, rows={"one": {"run": "first", "policy": "router"}}, reference=None)


def sweep(study: Path, *options: str) -> int:
    return sweep_command.main([str(study), *options], toy_command)


def run_folder_state(study: Study) -> list[str]:
    return list(states(plan(study)).values())


def calls(study: Path) -> int:
    return sum(path.read_text().count("fit") for path in load_study(study).out.rglob("calls.txt"))


def rewritten(tar: Path, content: bytes) -> None:
    """Another file in its place, of the same size and time."""
    found = tar.stat()
    tar.write_bytes(content * LARGE)
    os.utime(tar, ns=(found.st_atime_ns, found.st_mtime_ns))


def test_a_tar_file_that_was_replaced_unseen_makes_its_runs_anew(study: Path, tar: Path) -> None:
    assert sweep(study) == 0
    assert next(iter(read_checked(load_study(study).out).values())).manifests == {
        str(tar): hashlib.sha256(b"a" * LARGE).hexdigest()[:16]
    }
    assert (sweep(study), calls(study)) == (0, 1)
    rewritten(tar, b"b")
    assert run_folder_state(load_study(study)) == ["to do"]  # no table shows numbers of other data
    assert sweep(study) == 0
    assert (run_folder_state(load_study(study)), calls(study)) == (["done"], 2)


def test_a_copy_is_the_same_data_and_only_a_sweep_reads_it(
    study: Path, tar: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(study) == 0
    with monkeypatch.context() as patched:
        patched.setattr(file_hashes, "read_sha256", no_reading)
        assert run_folder_state(load_study(study)) == ["done"]
        rewritten(tar, b"a")
        loaded = load_study(study)
        assert "data was changed, or copied" in unchecked(loaded, plan(loaded))
    assert sweep(study, "--dry-run") == 0
    assert (run_folder_state(load_study(study)), calls(study)) == (["done"], 1)
    tar.unlink()  # whoever has the results may have given the data away
    assert (sweep(study), run_folder_state(load_study(study)), calls(study)) == (0, ["done"], 1)


def no_reading(path: Path) -> str:
    raise AssertionError(f"{path} was read whole")


def entry(**manifests: str) -> Checked:
    return Checked("c", manifests, [], {}, None, None, None, [], code_hash())


def test_data_from_elsewhere_is_asked_for_at_each_sweep_and_drawn_data_when_the_program_is_another() -> None:
    for place in ("https://host/000000.tar", "s3://bucket/data", "pipe:cat x.tar"):
        assert entry(**{place: "h"}).may_have_changed
        assert entry(**{place: "h"}).holds()  # as far as a table can tell
    assert not entry(Jersey="h").may_have_changed
    assert Checked("c", {"Jersey": "h"}, [], {}, None, None, None, [], "another").may_have_changed
    assert entry(Jersey="3").digest != entry(Jersey="4").digest


def test_what_another_version_has_written_of_configs_is_asked_anew(tmp_path: Path) -> None:
    write_checked(tmp_path, {"source": entry(Jersey="3")})
    path = tmp_path / "checked.json"
    assert read_checked(tmp_path) == {"source": entry(Jersey="3")}
    old = json.loads(path.read_text())
    old["source"]["metrics"] = ["accuracy", "token_share"]  # names alone, as once
    path.write_text(json.dumps(old))
    assert read_checked(tmp_path) == {}


def test_data_that_has_changed_places_is_other_data_and_the_order_of_telling_is_not() -> None:
    places = {"/data/test.tar": "h1", "/data/train.tar": "h2"}
    swapped = dict(zip(places, ["h2", "h1"], strict=True))  # what was tested on is now trained on
    for name in ("digest", "store_digest"):
        assert getattr(entry(**places), name) != getattr(entry(**swapped), name)
        assert getattr(entry(**places), name) == getattr(entry(**dict(reversed(places.items()))), name)


def test_shards_that_were_changed_beneath_their_manifest_do_not_hold(tmp_path: Path) -> None:
    shard, manifest = tmp_path / "shard-000000.tar", tmp_path / "manifest.json"
    shard.write_bytes(b"a" * 100)
    described = {"name": shard.name, "sha256": file_hashes.file_sha256(shard)}
    manifest.write_text(json.dumps({"shards": [described]}))
    known = entry(**{str(manifest): file_hashes.file_sha256(manifest)[:16]})
    assert known.holds(read=True)
    found = shard.stat()
    shard.write_bytes(b"b" * 100)
    os.utime(shard, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert not known.holds(read=True)
