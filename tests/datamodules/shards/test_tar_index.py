"""Names in tar files: one rule for all who read them, WebDataset's own."""

import hashlib
import io
import subprocess
import tarfile
import warnings
from pathlib import Path

import pytest
import webdataset
from webdataset.tariterators import base_plus_ext

from datamodules.llava_shards import LLaVAShards
from datamodules.loading.length_grouping import sample_sizes
from datamodules.shards.cache import ShardCache
from datamodules.shards.reader import ShardedSamples
from datamodules.shards.sample import BadSampleError
from datamodules.shards.tar_index import read_index, split_name
from lit_avg.utils.errors import UserError
from tests.datamodules.tars import record, write_tar
from tests.drawn import image

PICTURE = image(30, 20, "red", 0)


@pytest.fixture
def cache(tmp_path: Path) -> ShardCache:
    return ShardCache(tmp_path / "cache", 10**9)


NAMES = (
    *("000000.jpg", "./000000.jpg", "v1.0/000000.jpg", "a/b.c/d.e.f", "a.b.jpg", "x.JSON", "a/x.tar.gz", "/abs/x.png"),
    *(
        "README",
        "v1.0/README",
        ".DS_Store",
        "a/.hidden",
        "._000000.jpg",
        "__MACOSX/._a.jpg",
        "..jpg",
        "a b/ü.jpg",
        "x.",
    ),
)


@pytest.mark.parametrize("name", NAMES)
def test_keys_are_webdatasets(name: str) -> None:
    key, extension = base_plus_ext(name)
    assert split_name(name) == (None if key is None else (key, extension.lower()))


def mixed_tar(path: Path, prefix: str, with_folders: bool) -> list[bool]:
    """Twelve samples as GNU tar packs a folder; which of them have no image."""
    members: dict[str, bytes | str | None] = {}
    if with_folders:
        members |= {"./": None} if prefix == "./" else {part: None for part in [prefix.rstrip("/")] if part}
    for number in range(12):
        has_image = number % 3 != 1
        members[f"{prefix}{number:06d}.json"] = record(number, has_image=has_image)
        if has_image:
            members[f"{prefix}{number:06d}.png"] = image(30 + number, 20, "red", number)
    write_tar(path, members | ({"empty/": None, "notes": b"none"} if with_folders else {}))
    return [number % 3 == 1 for number in range(12)]


@pytest.mark.parametrize("prefix", ["", "./", "v1.0/", "./v1.0/", "plain/"])
@pytest.mark.parametrize("with_folders", [False, True])
def test_lengths_and_images_are_those_of_the_sample_however_the_tar_file_was_made(
    prefix: str, with_folders: bool, tmp_path: Path, cache: ShardCache
) -> None:
    text_only = mixed_tar(tmp_path / "mix.tar", prefix, with_folders)
    samples = ShardedSamples(tmp_path / "mix.tar", cache=cache)
    assert [samples[number].image is None for number in range(12)] == text_only
    sizes = sample_sizes(samples)
    assert sizes[:, 2].tolist() == [0 if without else 30 + number for number, without in enumerate(text_only)]
    assert sizes[:, 0].tolist() == [len(record(number, has_image=not text_only[number])) for number in range(12)]
    data = LLaVAShards(
        str(tmp_path / "mix.tar"),
        tokenizer="jersey",
        batch_size=2,
        tile_size=16,
        grid_pinpoints=None,
        group_by_length=True,
    )
    images = [len(batch.tile_grids) for batch in data.train_dataloader()]
    assert sorted(images) == [0, 0, 2, 2, 2, 2]  # 8 samples with an image and 4 without, by twos


@pytest.mark.parametrize("group_by_length", [False, True])
def test_training_on_what_tar_made_of_a_folder_sees_the_samples_and_keys_that_webdataset_reads(
    group_by_length: bool, tmp_path: Path
) -> None:
    for number in range(12):  # ./v1.0/a/000.json, ./v1.0/a/000.seg.PNG, ./v1.0/b.c/001.json (without an image), …
        name = tmp_path / "raw" / "v1.0" / ("b.c" if number % 2 else "a") / f"{number:03d}"
        name.parent.mkdir(parents=True, exist_ok=True)
        name.with_suffix(".json").write_bytes(record(number, has_image=number % 3 != 1))
        if number % 3 != 1:
            name.with_suffix(".seg.PNG").write_bytes(image(30 + number, 20, "red", number))
    shard = tmp_path / "x.tar"
    names = sorted(
        f"./{path.relative_to(tmp_path / 'raw')}" for path in (tmp_path / "raw").rglob("*.*") if path.is_file()
    )
    subprocess.run(["tar", "cf", shard, *names], cwd=tmp_path / "raw", check=True)
    read = {
        f"x.tar/{sample['__key__']}": hashlib.sha256(sample["seg.png"]).hexdigest()[:16] if "seg.png" in sample else ""
        for sample in webdataset.WebDataset(str(shard), shardshuffle=False)
    }
    assert [key for key in read if not read[key]] == [
        "x.tar/./v1.0/a/004", "x.tar/./v1.0/a/010", "x.tar/./v1.0/b.c/001", "x.tar/./v1.0/b.c/007"
    ]  # fmt: skip
    data = LLaVAShards(
        str(shard), tokenizer="jersey", batch_size=2, tile_size=16, grid_pinpoints=None, group_by_length=group_by_length
    )
    seen: dict[str, str] = {}
    for batch in data.train_dataloader():
        hashes = iter(batch.image_hashes)
        seen |= {key: next(hashes) if row >= 0 else "" for key, row in zip(batch.keys, batch.image_of_row, strict=True)}
    assert seen == read


def test_links_within_a_tar_file_are_followed_and_others_are_named(tmp_path: Path, cache: ShardCache) -> None:
    members: dict[str, bytes | str | None] = {f"a/{n}.json": record(n) for n in range(4)}
    members |= {"a/0.png": PICTURE, "a/1.png": "0.png", "a/2.png": "../a/1.png", "a/3.png": "../../gone.png"}
    write_tar(tmp_path / "links.tar", members)
    samples = ShardedSamples(tmp_path / "links.tar", cache=cache)
    assert [samples[number].image for number in range(3)] == [PICTURE] * 3
    with pytest.raises(BadSampleError, match=r"a/3 .*: its .png is a link to ../../gone.png, which is not in the tar"):
        samples[3]
    assert sample_sizes(samples)[:, 1].tolist() == [20, 20, 20, 1]


def test_hard_links_are_followed_and_sparse_files_are_named(tmp_path: Path, cache: ShardCache) -> None:
    (tmp_path / "0.json").write_bytes(record(0))
    (tmp_path / "0.png").write_bytes(PICTURE)
    (tmp_path / "1.json").write_bytes(record(1))
    (tmp_path / "1.png").hardlink_to(tmp_path / "0.png")
    with tarfile.open(tmp_path / "hard.tar", "w") as tar:
        for name in ("0.json", "0.png", "1.json", "1.png"):
            tar.add(tmp_path / name, f"./{name}")
    with tarfile.open(tmp_path / "hard.tar") as tar:
        assert [member.name for member in tar if member.islnk()] == ["./1.png"]
    samples = ShardedSamples(tmp_path / "hard.tar", cache=cache)
    assert [samples[number].image for number in range(2)] == [PICTURE] * 2
    sparse = tarfile.TarInfo("2.png")  # as GNU tar writes it: one piece of 512 bytes at the beginning of 10,000
    sparse.type, sparse.size = tarfile.GNUTYPE_SPARSE, 512
    block = bytearray(sparse.tobuf(tarfile.GNU_FORMAT))
    block[386:410] = b"%011o\0%011o\0" % (0, 512)
    block[483:495] = b"%011o\0" % 10_000
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    head = io.BytesIO()
    with tarfile.open(fileobj=head, mode="w") as tar:
        said = tarfile.TarInfo("2.json")
        said.size = len(record(2))
        tar.addfile(said, io.BytesIO(record(2)))
    json_member = head.getvalue()[:1024]
    (tmp_path / "sparse.tar").write_bytes(json_member + bytes(block) + bytes(512) + bytes(1024))
    with pytest.raises(BadSampleError, match=r"2 .*: its .png is stored with holes left out; .* without --sparse"):
        ShardedSamples(tmp_path / "sparse.tar", cache=cache)[0]


def test_names_with_dots_are_refused_by_the_rule(tmp_path: Path) -> None:
    write_tar(tmp_path / "dots.tar", {f"img.{n}.{kind}": b"{}" for n in range(9) for kind in ("json", "png")})
    with pytest.raises(UserError, match=r"key ends at the first dot .* are one sample img, img.0.json among them"):
        LLaVAShards(
            str(tmp_path / "dots.tar"), tokenizer="jersey", batch_size=2, tile_size=16, grid_pinpoints=None
        ).train_dataloader()


def test_the_later_of_two_files_of_one_name_counts_as_tar_has_it(tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar, warnings.catch_warnings():
        for name, content in (("0.json", b"old"), ("0.json", b"newer")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    file.seek(0)
    ((key, members),) = read_index(file, "x")
    assert (key, members["json"]) == ("0", (1536, 5))


def test_a_tar_file_that_is_cut_off_between_two_files_is_refused_and_so_are_headers_that_are_none(
    tmp_path: Path,
) -> None:
    path = tmp_path / "some.tar"
    write_tar(path, {"0.json": b"{}", "1.json": b"{}"})
    whole = path.read_bytes()
    assert [key for key, _ in read_index(io.BytesIO(whole), "some.tar")] == ["0", "1"]
    for blocks in (2, 4):  # a header and a block of content each
        with pytest.raises(
            UserError, match=r"some\.tar is not a whole tar file: it lacks the zeros that end one; pack"
        ):
            read_index(io.BytesIO(whole[: 512 * blocks]), "some.tar")
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("0.json")
        member.pax_headers = {"GNU.sparse.map": "1,x"}
        tar.addfile(member)
    with pytest.raises(UserError, match=r"some\.tar is not a whole tar file: invalid literal"):
        read_index(io.BytesIO(path.read_bytes()), "some.tar")


def test_a_name_that_no_file_of_outcomes_could_hold_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "some.tar", {"caf\udce9.json": b"{}"}, format=tarfile.GNU_FORMAT)  # Latin-1's é
    with pytest.raises(UserError, match=r"some\.tar: the name 'caf\\udce9\.json' is not UTF-8"):
        read_index(io.BytesIO((tmp_path / "some.tar").read_bytes()), "some.tar")
