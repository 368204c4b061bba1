"""Two users of a machine share what was fetched, drawn, hashed and computed: they read it, or in a group add to it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from datamodules.jersey.writing import JerseySettings, cached
from datamodules.loading.length_grouping import sample_sizes
from datamodules.shards.cache import ShardCache
from datamodules.shards.download import Expected
from datamodules.shards.manifest import read_manifest
from datamodules.shards.reader import ShardedSamples
from lit_avg.feedback.part_files import StoredFeedback
from lit_avg.feedback.store import FeedbackStore, StoredSplit, open_store
from lit_avg.model import AvgLlava
from lit_avg.pretrained.folder import weights_type
from lit_avg.utils.atomic_io import whole_folder
from lit_avg.utils.errors import UserError
from lit_avg.utils.hashing import file_sha256
from tests.datamodules.serving import HASTY, Server, samples_at, serving
from tests.datamodules.tars import foreign_tar
from tests.drawn import drawn_shards
from tests.second_user import as_second_user, modes, under_umask

GROUP = 54321
SPLITS = {"train": StoredSplit("data", 3, 2)}
IDENTITY = {"granularities": "1 2"}
JERSEY = JerseySettings(2, 1, 1, 0)
LARGE = 2**20
"""Bytes of a file whose hash is kept on the disk."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(Server(drawn_shards(tmp_path / "drawn", 12))) as server:
        yield server


def feedback(begin: int, end: int) -> StoredFeedback:
    count = end - begin
    keys = [f"{number}/0" for number in range(begin, end)]
    twos = torch.ones(count, 2)
    return StoredFeedback(keys, ["k"] * count, [""] * count, -twos, twos.bool(), twos[:, 0].int(), twos.int())


def shared_cache(folder: Path) -> ShardCache:
    os.environ["LIT_AVG_CACHE"] = str(folder)
    return ShardCache(folder / "shards", 10**9, HASTY)


def first_shard(url: str, shards: Path, folder: Path) -> int:
    """Bytes of a shard from the cache, fetched if it is not there."""
    shard = read_manifest(shards).shards[0]
    with shared_cache(folder).open(f"{url}/{shard.name}", Expected(shard.sha256, shard.bytes)) as file:
        return len(file.read())


def filled(url: str, folder: Path, model: AvgLlava, foreign: Path, large: Path) -> None:
    """All that writes into what users share."""
    cache = shared_cache(folder)
    for location in (url, str(foreign), f"pipe:cat {foreign}"):
        samples_at(location, cache)
        sample_sizes(ShardedSamples(location, cache=cache))
    file_sha256(large)
    cached(JERSEY, folder)
    open_store(folder / "store", IDENTITY, SPLITS).fill("train", feedback)
    with whole_folder(folder / "exported") as partial:
        model.save_pretrained(partial)


def read(url: str, folder: Path, foreign: Path, large: Path) -> dict[str, object]:
    """What there is to read."""
    cache = shared_cache(folder)
    store = open_store(folder / "store", IDENTITY, SPLITS)
    return {
        "fetched": len(samples_at(url, cache)),
        "of others": len(samples_at(str(foreign), cache)),
        "sizes": len(sample_sizes(ShardedSamples(url, cache=cache))),
        "Jersey": len(read_manifest(cached(JERSEY, folder) / "train").shards),
        "hash": file_sha256(large),
        "feedback": (store.fill("train", feedback), FeedbackStore(folder / "store").read("train").keys),
        "exported": str(weights_type(folder / "exported")),
    }


@pytest.fixture
def outside(tmp_path: Path) -> tuple[Path, Path]:
    """Data that lies elsewhere: a tar file of somebody's, and a large file."""
    large = tmp_path / "large"
    large.write_bytes(b"a" * LARGE)
    foreign_tar(tmp_path / "foreign.tar", "red")
    return tmp_path / "foreign.tar", large


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_AVG_CACHE", "")  # and set back afterwards


@pytest.mark.parametrize(("umask", "folders", "files"), [(0o022, "0o755", "0o644"), (0o002, "0o775", "0o664")])
def test_whatever_is_shared_is_for_whom_the_umask_lets(
    umask: int, folders: str, files: str, server: Server, outside: tuple[Path, Path], model: AvgLlava, tmp_path: Path
) -> None:
    with under_umask(umask):
        filled(server.url, tmp_path / "shared", model, *outside)
    assert modes(tmp_path / "shared") == {"folders": {folders}, "files": {files}}
    found = {path.name for path in (tmp_path / "shared").iterdir()}
    assert found == {"shards", "file_hashes", "store", "exported", f"jersey-{JERSEY.digest}"}
    assert {"locks", "seen", "samples", "used"} <= {path.name for path in (tmp_path / "shared" / "shards").iterdir()}


def test_a_second_user_reads_all_of_it(
    server: Server, outside: tuple[Path, Path], model: AvgLlava, open_folder: Path
) -> None:
    large = open_folder / "large"
    foreign, _ = (path.rename(open_folder / path.name) for path in outside)
    with under_umask(0o022):
        filled(server.url, open_folder / "shared", model, foreign, large)
    here = read(server.url, open_folder / "shared", foreign, large)
    fetched = len(server.sent)
    assert as_second_user(read, server.url, open_folder / "shared", foreign, large) == here
    assert len([name for name in server.sent[fetched:] if name.endswith(".tar")]) == 0


def refusal(url: str, shards: Path, folder: Path) -> str:
    with pytest.raises(UserError) as refused:
        first_shard(url, shards, folder)
    return str(refused.value)


def test_a_second_user_is_told_where_a_shard_would_have_to_be_fetched(
    server: Server, open_folder: Path, tmp_path: Path
) -> None:
    server.folder = shards = server.folder.rename(open_folder / "drawn")
    with under_umask(0o022):
        (open_folder / "shared" / "shards").mkdir(parents=True)
    told = as_second_user(refusal, server.url, shards, open_folder / "shared")
    assert f"{open_folder}/shared/shards lacks a shard, and you may not write there; name another folder by" in told
    assert "$LIT_AVG_CACHE" in told


def test_two_users_of_a_group_fill_one_cache(server: Server, open_folder: Path, tmp_path: Path) -> None:
    server.folder = shards = server.folder.rename(open_folder / "drawn")
    shared = open_folder / "shared"
    with under_umask(0o002):
        shared.mkdir()
        if os.getuid() == 0:
            os.chown(shared, -1, GROUP)
            shared.chmod(0o2775)
        total = first_shard(server.url, shards, shared)
    cache = shared_cache(shared)
    (fetched,) = [path for path in cache.folder.iterdir() if path.is_file()]
    fetched.unlink()  # its lock stays
    assert as_second_user(first_shard, server.url, shards, shared, umask=0o002, groups=[GROUP]) == total
    with under_umask(0o002):
        assert first_shard(server.url, shards, shared) == total
    assert {path.stat().st_gid for path in shared.rglob("*")} == {GROUP}
    assert server.fetched(read_manifest(shards).shards[0].name) == 2
