"""The cache holds no more than it may, and several processes share it."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from datamodules.shards.cache import ShardCache
from datamodules.shards.download import Expected
from datamodules.shards.manifest import read_manifest
from datamodules.shards.reader import ShardedSamples
from datamodules.shards.sample import Sample
from tests.datamodules.serving import HASTY, Server, cached_bytes, samples_at, serving
from tests.drawn import drawn_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = drawn_shards(tmp_path_factory.mktemp("drawn"), 23)
    assert len(read_manifest(folder).shards) >= 4
    return folder


@pytest.fixture
def server(shards: Path) -> Iterator[Server]:
    with serving(Server(shards)) as server:
        yield server


def sizes(shards: Path) -> list[int]:
    return [shard.bytes for shard in read_manifest(shards).shards]


def test_the_cache_stays_within_its_bound_and_forgets_what_was_used_longest_ago(
    shards: Path, server: Server, tmp_path: Path
) -> None:
    first, second, third = (shard for shard in read_manifest(shards).shards[:3])
    small = ShardCache(tmp_path / "small", max(sizes(shards)) * 2, HASTY)
    for shard in (first, second, first, third, first):  # the second makes room for the third
        small.open(f"{server.url}/{shard.name}", Expected(shard.sha256, shard.bytes)).close()
        assert cached_bytes(small) <= small.max_bytes
    assert [server.fetched(shard.name) for shard in (first, second, third)] == [1, 1, 1]
    small.open(f"{server.url}/{second.name}", Expected(second.sha256, second.bytes)).close()
    assert server.fetched(second.name) == 2


def test_a_shard_that_is_being_read_may_be_pushed_out(shards: Path, server: Server, tmp_path: Path) -> None:
    one, other = read_manifest(shards).shards[:2]
    tight = ShardCache(tmp_path / "tight", max(sizes(shards)), HASTY)
    with tight.open(f"{server.url}/{one.name}", Expected(one.sha256, one.bytes)) as reading:
        tight.open(f"{server.url}/{other.name}", Expected(other.sha256, other.bytes)).close()
        assert not (tight.folder / one.sha256).exists()
        assert reading.read() == (shards / one.name).read_bytes()


def test_what_a_killed_download_left_makes_room(shards: Path, server: Server, tmp_path: Path) -> None:
    tight = ShardCache(tmp_path / "tight", max(sizes(shards)), HASTY)
    tight.folder.mkdir()
    (tight.folder / f"{'0' * 64}.part").write_bytes(bytes(max(sizes(shards))))
    assert samples_at(server.url, tight) == samples_at(shards, tight)


def read_all(arguments: tuple[str, ShardCache, int]) -> list[Sample]:
    url, cache, first = arguments
    samples = ShardedSamples(url, cache=cache)
    return [samples[(first + number) % len(samples)] for number in range(len(samples))]


def test_processes_share_a_cache_that_is_too_small_for_all_of_them(
    shards: Path, server: Server, tmp_path: Path
) -> None:
    cramped = ShardCache(tmp_path / "cramped", max(sizes(shards)) * 2, HASTY)
    server.breaks = [3000] * 3
    here = samples_at(shards, cramped)
    with ProcessPoolExecutor(3, mp_context=get_context("fork")) as pool:
        for first, seen in enumerate(pool.map(read_all, [(server.url, cramped, first) for first in range(3)])):
            assert seen == here[first:] + here[:first]
    assert cached_bytes(cramped) <= cramped.max_bytes


def test_a_cached_shard_that_was_changed_on_the_disk_is_fetched_again(
    shards: Path, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache, shard = ShardCache(tmp_path / "cache", 10**9, HASTY), read_manifest(shards).shards[0]
    url, expected = f"{server.url}/{shard.name}", Expected(shard.sha256, shard.bytes)
    cache.open(url, expected).close()
    with (cache.folder / shard.sha256).open("r+b") as file:
        file.seek(700)
        file.write(b"?")
    for _ in range(2):
        with cache.open(url, expected) as file:
            assert file.read() == (shards / shard.name).read_bytes()
    assert server.fetched(shard.name) == 2
    assert "was changed since it was fetched" in caplog.text
