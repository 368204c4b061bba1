"""Images in folders, zips and tars: found by their names, and never outside."""

import io
import os
import subprocess
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.packing import archives
from datamodules.packing.names import RefusedError, inside
from datamodules.packing.roots import ImageRoot, Images, parse_root
from lit_avg.utils.errors import UserError

FILES = {
    "a.b.c.jpg": b"one",
    "sp ace/quote's.jpg": b"two",
    "Köln/ñandú.jpg": b"three",
    "-dash.jpg": b"",
    "x/y": b"5" * 999,
}


def as_folder(path: Path) -> Path:
    for name, data in FILES.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def as_zip(path: Path, files: dict[str, bytes] = FILES, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def as_tar(path: Path, files: dict[str, bytes] = FILES) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def opened(tmp_path: Path, *roots: ImageRoot, folders: tuple[str, ...] = (), any_extension: bool = False) -> Images:
    images = Images(roots, tmp_path / "indexes", folders, any_extension)
    images.build_indexes()
    return images


@pytest.mark.parametrize("make", [as_folder, as_zip, as_tar])
def test_every_kind_of_root_gives_the_bytes_by_name(tmp_path: Path, make: object) -> None:
    assert callable(make)
    images = opened(tmp_path, ImageRoot(make(tmp_path / "root")))
    for name, data in FILES.items():
        assert images.read(name).data == data
        assert images.read(f"./{name}").data == data
    with pytest.raises(RefusedError, match=r"image missing: gone\.jpg"):
        images.read("gone.jpg")


def test_stored_and_deflated_members_are_read_and_others_are_refused(tmp_path: Path) -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = as_zip(tmp_path / f"{method}.zip", method=method)
        assert opened(tmp_path, ImageRoot(path)).read("x/y").data == b"5" * 999
    path = as_zip(tmp_path / "bz2.zip", method=zipfile.ZIP_BZIP2)
    with pytest.raises(RefusedError, match="x/y is encrypted or not deflated"):
        opened(tmp_path, ImageRoot(path)).read("x/y")


def test_a_damaged_member_is_refused_and_the_others_are_read(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "it.zip", method=zipfile.ZIP_STORED)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"one", b"onE", 1))
    images = opened(tmp_path, ImageRoot(path))
    with pytest.raises(RefusedError, match=r"a\.b\.c\.jpg does not have its checksum"):
        images.read("a.b.c.jpg")
    assert images.read("sp ace/quote's.jpg").data == b"two"


def test_a_tar_that_was_cut_off_is_refused_or_its_last_image_is(tmp_path: Path) -> None:
    path = as_tar(tmp_path / "it.tar", {"whole.jpg": b"1" * 512, "cut.jpg": b"2" * 5000})
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises((UserError, RefusedError), match=r"not a readable zip or tar|cut off"):
        opened(tmp_path, ImageRoot(path)).read("cut.jpg")


@pytest.mark.parametrize(
    "name",
    [
        *("../x", "/etc/passwd", "a/../../x", "..", "C:\\x", "C:/x", "./C:/x", "..\\x", "a\\..\\..\\x"),
        *("\\\\host\\x", "./\\x", "a\0b"),
    ],
)
def test_names_that_point_outside_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "x").write_bytes(b"secret")
    images = opened(tmp_path, ImageRoot(as_folder(tmp_path / "root")), ImageRoot(as_zip(tmp_path / "it.zip")))
    with pytest.raises(RefusedError, match="image outside the image folder"):
        images.read(name)


@given(st.text(st.sampled_from("ab./\\~:C"), max_size=12))
def test_a_name_that_is_inside_stays_inside_however_it_is_written(name: str) -> None:
    short = inside(name)
    if short is not None:
        assert os.path.normpath(os.path.join("/root", short)).startswith("/root")  # noqa: PTH118
        assert inside(short) == short


@pytest.mark.parametrize("make", [as_zip, as_tar])
def test_entries_that_point_outside_cannot_be_read_by_any_name(tmp_path: Path, make: object) -> None:
    assert callable(make)
    path = make(tmp_path / "it", {"../evil.jpg": b"evil", "/abs.jpg": b"evil", "good.jpg": b"good"})
    images = opened(tmp_path, ImageRoot(path))
    assert images.read("good.jpg").data == b"good"
    for name in ("evil.jpg", "abs.jpg"):
        with pytest.raises(RefusedError, match="image missing"):
            images.read(name)


def test_links_in_a_tar_are_followed_within_it_only(tmp_path: Path) -> None:
    path = tmp_path / "it.tar"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("one.jpg")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"one"))
        for name, kind, target in (
            ("hard.jpg", tarfile.LNKTYPE, "one.jpg"),
            ("soft.jpg", tarfile.SYMTYPE, "/etc/passwd"),
        ):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            archive.addfile(link)
    images = opened(tmp_path, ImageRoot(path))
    assert images.read("hard.jpg").data == b"one"
    with pytest.raises(RefusedError, match="image missing"):
        images.read("soft.jpg")


def linked_folder(folder: Path) -> Path:
    """Images that `tar` and `zip` store as hard links, symbolic links, and files with holes."""
    (folder / "sub").mkdir(parents=True)
    (folder / "one.jpg").write_bytes(b"one")
    (folder / "hard.jpg").hardlink_to(folder / "one.jpg")
    (folder / "a-soft.jpg").symlink_to("sub/chain.jpg")  # to what comes later, and is a link itself
    (folder / "sub" / "chain.jpg").symlink_to("../one.jpg")
    (folder / "out.jpg").symlink_to("/etc/passwd")
    (folder / "up.jpg").symlink_to("../../etc/passwd")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    with (folder / "holes.bmp").open("wb") as file:
        file.write(b"head")
        file.seek(2**20)
        file.write(b"tail")
        file.truncate(2**21)
    return folder


@pytest.mark.parametrize(
    "options",
    [["-S", "--format=gnu"], *(["-S", "--format=pax", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0"))],
)
def test_an_image_of_a_folder_is_found_however_tar_has_stored_it(tmp_path: Path, options: list[str]) -> None:
    folder, path = linked_folder(tmp_path / "it"), tmp_path / "it.tar"
    subprocess.run(["tar", *options, "-C", str(folder), "-cf", str(path), "."], check=True)
    assert path.stat().st_size < 2**20, "it has holes"
    images = opened(tmp_path, ImageRoot(path))
    for name in ("one.jpg", "hard.jpg", "a-soft.jpg", "sub/chain.jpg", "holes.bmp"):
        assert images.read(name).data == (folder / name).read_bytes()
    for name in ("out.jpg", "up.jpg", "loop.jpg"):
        with pytest.raises(RefusedError, match="image missing"):
            images.read(name)


def test_links_in_a_zip_are_followed_within_it_only(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "it.zip", {"sub/one.jpg": b"one", "late.jpg": b"gone"})
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings(action="ignore"):
        for name, target in (("sub/soft.jpg", "one.jpg"), ("out.jpg", "/etc/passwd"), ("late.jpg", "sub/one.jpg")):
            link = zipfile.ZipInfo(name)
            link.external_attr = 0o120777 << 16
            archive.writestr(link, target)
    images = opened(tmp_path, ImageRoot(path))
    assert [images.read(name).data for name in ("sub/soft.jpg", "late.jpg")] == [b"one", b"one"]
    with pytest.raises(RefusedError, match="image missing"):
        images.read("out.jpg")


def test_a_zip_bomb_is_refused_without_being_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 10**6)  # writing a real one takes long
    path = as_zip(tmp_path / "it.zip", {"bomb.jpg": bytes(10**6 + 1)})
    assert path.stat().st_size < 2000
    with pytest.raises(RefusedError, match="image too large"):
        opened(tmp_path, ImageRoot(path)).read("bomb.jpg")


def test_names_in_utf8_are_found_in_zips_that_do_not_say_so(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "it.zip", {"Köln.jpg": b"dom"})
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # the flag of UTF-8 is bit 11
        data[data.index(signature) + flags + 1] &= ~0x08
    path.write_bytes(data)
    assert zipfile.ZipFile(path).namelist() == ["K├╢ln.jpg"]
    assert opened(tmp_path, ImageRoot(path)).read("Köln.jpg").data == b"dom"


def test_accents_composed_or_not_are_the_same_name(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "it.zip", {"caf\u0065\u0301.jpg": b"decomposed"})
    assert opened(tmp_path, ImageRoot(path)).read("caf\u00e9.jpg").data == b"decomposed"


def test_each_prefix_has_its_root_and_the_longest_is_asked_first(tmp_path: Path) -> None:
    train = as_zip(tmp_path / "train2017.zip", {"train2017/1.jpg": b"coco"})
    other = as_zip(tmp_path / "other.zip", {"coco/train2017/1.jpg": b"wrong", "gqa/2.jpg": b"gqa"})
    images = opened(tmp_path, ImageRoot(other), ImageRoot(train, "coco/train2017"))
    assert images.read("coco/train2017/1.jpg") == (b"coco", 1)
    assert images.read("gqa/2.jpg") == (b"gqa", 0)
    with pytest.raises(RefusedError, match="image missing"):
        images.read("coco/train20171.jpg")


def test_a_root_is_written_with_or_without_a_prefix(tmp_path: Path) -> None:
    (tmp_path / "a=b").mkdir()
    assert parse_root(str(tmp_path / "a=b")) == ImageRoot(tmp_path / "a=b")
    assert parse_root(f"coco/train2017/={tmp_path / 'a=b'}") == ImageRoot(tmp_path / "a=b", "coco/train2017")
    with pytest.raises(UserError, match=r"there is no image folder, zip or tar .*gone"):
        parse_root(f"coco={tmp_path / 'gone'}")
    with pytest.raises(UserError, match="the prefix is the beginning of image names"):
        parse_root(f"../coco={tmp_path}")


def test_an_extension_may_differ_where_the_data_set_is_known_for_it(tmp_path: Path) -> None:
    root = ImageRoot(as_zip(tmp_path / "it.zip", {"images/1.gif": b"gif"}))
    assert opened(tmp_path, root, any_extension=True).read("images/1.jpg").data == b"gif"
    assert opened(tmp_path, root, folders=("images",)).read("1.gif").data == b"gif"
    with pytest.raises(RefusedError, match="image missing"):
        opened(tmp_path, root).read("images/1.jpg")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a readable zip or tar|holds no file"),
        (b"hello", "not a readable zip or tar"),
        (b"PK\5\6" + bytes(18), "there are no images in .*: it holds no file"),
    ],
)
def test_what_is_no_archive_or_an_empty_one_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "it.zip").write_bytes(data)
    with pytest.raises(UserError, match=message):
        opened(tmp_path, ImageRoot(tmp_path / "it.zip"))


def test_half_a_zip_and_a_compressed_tar_are_refused(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "it.zip")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="not a readable zip or tar"):
        opened(tmp_path, ImageRoot(path))
    with tarfile.open(tmp_path / "it.tar.gz", "w:gz") as archive:
        archive.add(path, "it.jpg")
    with pytest.raises(UserError, match="unpack it if it is a compressed tar"):
        opened(tmp_path, ImageRoot(tmp_path / "it.tar.gz"))
