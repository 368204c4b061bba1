"""Shards from elsewhere give the very samples of the folder they were packed into, however badly they arrive."""

import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from datamodules.llava_shards import LLaVAShards
from datamodules.loading.mixture import WeightedShards
from datamodules.shards.cache import ShardCache
from datamodules.shards.download import MissingError, fetch
from datamodules.shards.manifest import MANIFEST, read_manifest
from datamodules.shards.reader import ShardedSamples
from lit_avg.utils.errors import UserError
from tests.datamodules.serving import HASTY, Server, cached_bytes, samples_at, serving
from tests.datamodules.tars import write_tar
from tests.drawn import conversation, drawn_shards, image


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn_shards(tmp_path_factory.mktemp("drawn"), 23)


@pytest.fixture
def cache(tmp_path: Path) -> ShardCache:
    return ShardCache(tmp_path / "cache", 10**9, HASTY)


@pytest.fixture
def server(shards: Path) -> Iterator[Server]:
    with serving(Server(shards)) as server:
        yield server


def test_a_folder_on_a_server_gives_its_samples_and_is_fetched_once(
    shards: Path, server: Server, cache: ShardCache
) -> None:
    for _ in range(2):
        assert samples_at(server.url, cache) == samples_at(shards, cache)
    assert {server.fetched(shard.name) for shard in read_manifest(shards).shards} == {1}


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_connections_that_break_in_the_middle_lose_nothing(
    shards: Path, server: Server, cache: ShardCache, knows_ranges: bool
) -> None:
    server.knows_ranges = knows_ranges
    whole = 10**9
    server.statuses, server.breaks = [503], [1, 20_000, whole, 0, 7_000]  # three on the first shard, two on the second
    assert samples_at(server.url, cache) == samples_at(shards, cache)
    assert server.breaks == []


def test_a_broken_download_goes_on_where_it_broke(shards: Path, server: Server) -> None:
    server.breaks = [1000, 2000]
    name = read_manifest(shards).shards[0].name
    fetch(f"{server.url}/{name}", out := io.BytesIO(), retry=HASTY)
    assert out.getvalue() == (shards / name).read_bytes()
    assert [asked for _, asked in server.asked] == [None, "bytes=1000-", "bytes=3000-"]


def test_a_server_that_knows_no_ranges_is_read_from_the_beginning_again(shards: Path, server: Server) -> None:
    server.knows_ranges, server.breaks = False, [1000]
    name = read_manifest(shards).shards[0].name
    fetch(f"{server.url}/{name}", out := io.BytesIO(), retry=HASTY)
    assert out.getvalue() == (shards / name).read_bytes()


def test_tries_are_bounded(shards: Path, server: Server, cache: ShardCache) -> None:
    server.breaks = [100] * 9
    with pytest.raises(UserError, match=r"did not arrive in 4 tries; .* ended at byte 400 of"):
        samples_at(server.url, cache)
    assert cached_bytes(cache) == 0


def test_a_shard_with_another_hash_is_refused_and_not_kept(shards: Path, cache: ShardCache, tmp_path: Path) -> None:
    shutil.copytree(shards, tmp_path / "changed")
    path = tmp_path / "changed" / read_manifest(shards).shards[0].name
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    with (
        serving(Server(tmp_path / "changed")) as server,
        pytest.raises(UserError, match=f"sha256 {hashlib.sha256(data).hexdigest()}, not the manifest's"),
    ):
        samples_at(server.url, cache)
    assert cached_bytes(cache) == 0


def test_what_is_not_there_is_not_asked_for_again(server: Server) -> None:
    with pytest.raises(MissingError, match=r"gone\.tar cannot be read: HTTP status 404"):
        fetch(f"{server.url}/gone.tar", io.BytesIO(), retry=HASTY)
    assert len(server.asked) == 1


def test_a_training_stream_from_a_server_that_drops_connections_is_exact(shards: Path, tmp_path: Path) -> None:
    def batches(train: str, workers: int) -> list[list[str]]:
        data = LLaVAShards(
            train=train,
            tokenizer="jersey",
            batch_size=3,
            tile_size=16,
            grid_pinpoints=None,
            system_prompt=None,
            workers=workers,
            shard_cache=str(tmp_path / "cache"),
        )
        return [batch.keys for batch in data.train_dataloader()]

    with serving(Server(shards, breaks=[5000, 100, 30_000])) as server:
        assert batches(server.url, workers=2) == batches(str(shards), workers=0)
    assert server.breaks == []


def test_training_with_a_cache_that_cannot_hold_the_mixed_shards_is_refused(server: Server, tmp_path: Path) -> None:
    data = LLaVAShards(
        server.url,
        tokenizer="jersey",
        batch_size=3,
        tile_size=16,
        grid_pinpoints=None,
        shard_cache=str(tmp_path),
        cache_gb=1e-4,
    )
    with pytest.raises(UserError, match=r"the cache holds 0.0001 GB, but 16 shards of .*; raise cache_gb"):
        data.train_dataloader()


def test_a_range_of_shards_is_a_part_of_the_folder(shards: Path, server: Server, cache: ShardCache) -> None:
    counts = [shard.samples for shard in read_manifest(shards).shards]
    expected = samples_at(shards, cache)[counts[0] : sum(counts[:3])]
    for folder in (str(shards), server.url):
        assert samples_at(f"{folder}/shard-{{000001..000002}}.tar", cache) == expected


def test_names_of_tar_files_are_webdatasets(shards: Path, cache: ShardCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WDS_DRAWN", str(shards))
    monkeypatch.setenv("DRAWN", str(shards))
    first = samples_at(f"{shards}/shard-{{000000..000001}}.tar", cache)
    assert samples_at("${DRAWN}/shard-000000.tar::${DRAWN}/shard-000001.tar", cache) == first
    assert samples_at("pipe:cat $DRAWN/shard-{000000..000001}.tar", cache)[0].turns == first[0].turns


def test_a_command_of_the_users_own_writes_the_shards(shards: Path, cache: ShardCache) -> None:
    samples = samples_at(f"pipe:cat {shards}/shard-{{000000..000002}}.tar", cache)
    counts = [shard.samples for shard in read_manifest(shards).shards]
    here = samples_at(shards, cache)[: sum(counts[:3])]
    assert [(one.turns, one.image) for one in samples] == [(one.turns, one.image) for one in here]
    assert samples[0].key == "shard-000000.tar/000000000"


def test_a_command_that_fails_midway_is_run_again(shards: Path, cache: ShardCache, tmp_path: Path) -> None:
    shard, flag = shards / "shard-000000.tar", tmp_path / "flag"
    command = f"pipe:test -e {flag} && cat {shard} || (touch {flag}; head -c 5000 {shard}; false) # {{0..0}}.tar"
    assert len(samples_at(command, cache)) == read_manifest(shards).shards[0].samples
    with pytest.raises(UserError, match="the command ended with status 3"):
        samples_at("pipe:exit 3", cache)


def test_a_bucket_is_read_through_fsspec(shards: Path, cache: ShardCache) -> None:
    bucket = fsspec.filesystem("memory")
    for path in shards.iterdir():
        bucket.pipe(f"/bucket/{path.name}", path.read_bytes())
    assert samples_at("memory://bucket", cache) == samples_at(shards, cache)


def test_a_system_that_is_not_installed_is_named(cache: ShardCache) -> None:
    with pytest.raises(UserError, match=r"s3://bucket/manifest.json cannot be read: .*lit-avg\[cloud\]"):
        samples_at("s3://bucket", cache)


def foreign_sample(number: int) -> dict[str, bytes]:
    record: dict[str, Any] = conversation(number, "red")
    return {
        f"./some.folder/{number}.json": json.dumps(record).encode(),
        f"./some.folder/{number}.png": image(30, 20, "red", number),
    }


def test_tar_files_of_others_are_gone_through_once(tmp_path: Path, cache: ShardCache) -> None:
    for shard in range(2):
        write_tar(tmp_path / f"mix-{shard}.tar", foreign_sample(0) | foreign_sample(1))
    with serving(Server(tmp_path)) as server:
        samples = samples_at(f"{server.url}/mix-{{0..1}}.tar", cache)
        assert samples == samples_at(f"{server.url}/mix-{{0..1}}.tar", cache)
        assert [server.fetched(f"mix-{shard}.tar") for shard in range(2)] == [1, 1]
    assert samples == samples_at(tmp_path / "mix-{0..1}.tar", cache)
    expected = [f"mix-{shard}.tar/./some.folder/{number}" for shard in range(2) for number in range(2)]
    assert [sample.key for sample in samples] == expected


def test_a_local_tar_file_that_changed_is_gone_through_again(tmp_path: Path, cache: ShardCache) -> None:
    for samples in (1, 2):
        members = foreign_sample(0) | (foreign_sample(1) if samples == 2 else {})
        write_tar(tmp_path / "mix.tar", members)
        assert len(samples_at(tmp_path / "mix.tar", cache)) == samples


def test_mistakes_in_a_location_are_named(
    shards: Path, cache: ShardCache, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WDS_OUTER", "${INNER}/shards")
    for location, message in {
        f"{shards}/gone-{{0..1}}.tar": "there is no shard .*gone-0.tar",
        f"{shards}/shard-{{000000..000001.tar": "write a range as",
        "${OUTER}/x.tar": "has as WDS_INNER, .* no such variable",
        "x.tar::": "`::` stands between the names of tar files, and one of them is empty",
        "pipe:cat ${NOWHERE}/x.tar": r"has as WDS_NOWHERE, .*; set it, or write \$NOWHERE for a variable of a command",
        f"{server.url}/nothing": f"nothing/{MANIFEST} cannot be read: HTTP status 404",
    }.items():
        with pytest.raises(UserError, match=message):
            samples_at(location, cache)


def test_a_connection_that_drops_behind_the_last_byte_is_at_its_end(shards: Path, server: Server) -> None:
    name = read_manifest(shards).shards[0].name
    data = (shards / name).read_bytes()
    server.tells_length, server.breaks = False, [len(data)]  # all of it, but nothing says so
    fetch(f"{server.url}/{name}", out := io.BytesIO(), retry=HASTY)
    assert out.getvalue() == data
    assert [asked for _, asked in server.asked] == [None, f"bytes={len(data)}-"]  # answered with status 416


def test_a_file_that_is_changed_while_it_is_read_is_read_anew(shards: Path, tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    path.write_bytes(b"a" * 5000)
    with serving(Server(tmp_path, breaks=[3000])) as server:

        class Changing(io.BytesIO):
            def write(self, data: Any, /) -> int:
                path.write_bytes(b"b" * 5000)
                return super().write(data)

        fetch(f"{server.url}/shard.tar", out := Changing(), retry=HASTY)
    assert out.getvalue() == b"b" * 5000


@pytest.mark.parametrize(("versions", "sent"), [("strong", 1), ("weak", 2), ("dated", 2), ("none", 2)])
def test_a_tar_file_is_sent_again_only_where_its_server_cannot_say_that_it_is_the_same(
    versions: Any, sent: int, tmp_path: Path, cache: ShardCache
) -> None:
    write_tar(tmp_path / "mix-0.tar", foreign_sample(0))
    with serving(Server(tmp_path, versions=versions)) as server:
        for _ in range(2):
            data = LLaVAShards(
                f"{server.url}/mix-0.tar",
                tokenizer="jersey",
                batch_size=1,
                tile_size=16,
                grid_pinpoints=None,
                test=f"{server.url}/mix-0.tar",
                shard_cache=str(cache.folder),
            )
            assert len(list(data.train_dataloader())) == len(list(data.test_dataloader())) == 1
            assert data.data_digest("test")
            assert data.manifest_hash
        assert server.fetched("mix-0.tar") == sent


def test_all_sources_of_a_mixture_are_counted_in_the_room_they_need(
    server: Server, shards: Path, tmp_path: Path
) -> None:
    of_one = sum(shard.bytes for shard in read_manifest(shards).shards) / 1e9

    def mixture(gigabytes: float) -> LLaVAShards:
        train = [WeightedShards(server.url, name=name) for name in "ab"]
        return LLaVAShards(
            train,
            tokenizer="jersey",
            batch_size=3,
            tile_size=16,
            grid_pinpoints=None,
            shard_cache=str(tmp_path),
            cache_gb=gigabytes,
        )

    with pytest.raises(UserError, match=r"the cache holds .* but 32 shards of .*raise cache_gb"):
        mixture(1.5 * of_one).train_dataloader()
    mixture(2 * of_one + 1e-9).train_dataloader()


def test_each_source_remembers_the_indexes_of_the_shards_it_mixes(tmp_path: Path, cache: ShardCache) -> None:
    for number in range(20):
        write_tar(tmp_path / f"{number:02d}.tar", foreign_sample(number))
    sources = [ShardedSamples(f"{tmp_path}/{{00..19}}.tar", cache=cache).source for _ in range(6)]
    first = [[source.index(number) for number in range(16)] for source in sources]
    again = [[source.index(number) for number in range(16)] for source in sources]
    assert all(
        one is other for ones, others in zip(first, again, strict=True) for one, other in zip(ones, others, strict=True)
    )


def test_shards_are_opened_once_for_all_parts_of_a_split(shards: Path, server: Server, cache: ShardCache) -> None:
    data = LLaVAShards(
        server.url, tokenizer="jersey", batch_size=3, tile_size=16, grid_pinpoints=None, shard_cache=str(cache.folder)
    )
    for begin in range(0, 23, 4):
        assert list(data.sequential_batches("train", begin, min(23, begin + 4)))
    assert data.sample_count("train") == 23
    assert server.fetched(MANIFEST) == 1
