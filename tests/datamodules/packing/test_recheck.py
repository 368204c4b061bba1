"""A verdict about a record holds for as long as what it was found by is as it was."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.packing.command import main
from datamodules.packing.journal import partial_folder
from datamodules.packing.pack import REJECTS
from datamodules.shards.reader import ShardedSamples
from lit_avg.utils.errors import UserError
from tests.drawn import draw_llava, image

SAMPLES = 8  # of which 4 has no image


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Annotations and a folder of images."""
    return draw_llava(tmp_path / "raw", SAMPLES)[0].parent


def missing(images: Path) -> None:
    (images / "3.png").unlink()


def broken(images: Path) -> None:
    (images / "3.png").write_bytes(b"no image")


def pack_again(raw: Path, out: Path, *options: str, max_rejects: str = "0.2") -> int:
    places = ["--annotations", str(raw / "drawn.json"), "--images", str(raw / "images"), "--out", str(out)]
    return main([*places, "--max-rejects", max_rejects, *options])


def images_in(out: Path) -> list[bytes | None]:
    return [sample.image for sample in ShardedSamples(out)]


@pytest.mark.parametrize("spoil", [missing, broken])
@pytest.mark.parametrize("max_rejects", ["0", "0.2"])
@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_an_image_that_was_missing_or_broken_is_looked_at_again(
    raw: Path, tmp_path: Path, spoil: Callable[[Path], None], max_rejects: str, overwrite: list[str]
) -> None:
    good = (raw / "images" / "3.png").read_bytes()
    spoil(raw / "images")
    out, options = tmp_path / "out", ["--workers", "1"]
    for _ in range(2):  # what is still so stays so
        if max_rejects == "0":
            with pytest.raises(UserError, match="1 of 8 records refused"):
                pack_again(raw, out, *options, max_rejects=max_rejects)
        else:
            assert pack_again(raw, out, *options, max_rejects=max_rejects) == 0
    (raw / "images" / "3.png").write_bytes(good)
    assert pack_again(raw, out, *options, *overwrite, max_rejects=max_rejects) == 0
    expected = [(raw / "images" / f"{number}.png").read_bytes() if number != 4 else None for number in range(SAMPLES)]
    assert images_in(out) == expected
    assert (out / REJECTS).read_bytes() == b""
    assert not partial_folder(out).exists()


def test_nothing_is_packed_again_while_all_is_as_it_was(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing(raw / "images")
    out = tmp_path / "out"
    assert pack_again(raw, out) == 0
    inode = next(out.glob("*.tar")).stat().st_ino
    (raw / "images" / "0.png").touch()
    (raw / "images" / "5.png").unlink()  # what is packed is no longer needed
    capsys.readouterr()
    assert pack_again(raw, out) == 0
    assert "already done" in capsys.readouterr().out
    assert next(out.glob("*.tar")).stat().st_ino == inode


@pytest.mark.parametrize("options", [[], ["--val-share", "0.4"], ["--max-side", "20"]])
def test_an_image_that_changed_is_told_and_packed_when_that_is_asked_for(
    raw: Path, tmp_path: Path, options: list[str]
) -> None:
    out = tmp_path / "out"
    assert pack_again(raw, out, *options) == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    changed = bytearray(image(40, 90, "blue", 99))
    (raw / "images" / "0.png").write_bytes(changed)
    with pytest.raises(UserError, match=r"images have changed since they were packed into .*out; .* --overwrite"):
        pack_again(raw, out, *options)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert pack_again(raw, out, *options, "--overwrite") == 0
    assert pack_again(raw, out, *options) == 0  # and that is then what it was packed from


def exchange(images: Path) -> None:
    """Give two images each other's name."""
    names = [images / "0.png", images / "1.png"]
    for path, content in zip(names, [path.read_bytes() for path in reversed(names)], strict=True):
        path.write_bytes(content)


def test_images_that_have_changed_names_are_told_and_packed_when_that_is_asked_for(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert pack_again(raw, out) == 0
    before = images_in(out)
    exchange(raw / "images")
    with pytest.raises(UserError, match=r"images have changed since they were packed into .*out; .* --overwrite"):
        pack_again(raw, out)
    assert pack_again(raw, out, "--overwrite") == 0
    assert images_in(out) == [before[1], before[0], *before[2:]]


def test_what_an_earlier_version_has_packed_is_known_by_its_images_alone(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert pack_again(raw, out) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["sources"]["images"][0]["named_pictures_digest"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    capsys.readouterr()
    assert pack_again(raw, out) == 0
    assert "already done" in capsys.readouterr().out
    (raw / "images" / "0.png").write_bytes(image(40, 90, "blue", 99))
    with pytest.raises(UserError, match="images have changed"):
        pack_again(raw, out)


def test_an_image_that_changed_while_a_packing_waited_is_not_mixed_with_the_others(raw: Path, tmp_path: Path) -> None:
    missing(raw / "images")
    out = tmp_path / "out"
    with pytest.raises(UserError, match="1 of 8 records refused"):
        pack_again(raw, out, max_rejects="0")
    new = image(40, 90, "blue", 99)
    (raw / "images" / "0.png").write_bytes(new)
    with pytest.raises(UserError, match=r"images have changed since they were packed into .*out\.partial"):
        pack_again(raw, out)
    assert pack_again(raw, out, "--overwrite") == 0
    assert images_in(out)[0] == new


def test_samples_whose_images_are_gone_are_not_given_up_for_one_that_came(raw: Path, tmp_path: Path) -> None:
    good = (raw / "images" / "3.png").read_bytes()
    missing(raw / "images")
    out = tmp_path / "out"
    assert pack_again(raw, out) == 0
    (raw / "images" / "0.png").unlink()
    (raw / "images" / "3.png").write_bytes(good)
    with pytest.raises(UserError, match="1 records that were refused can be packed now, but 1 images that were packed"):
        pack_again(raw, out)
    assert len(images_in(out)) == SAMPLES - 1


def test_another_archive_or_another_annotations_file_is_other_data(raw: Path, tmp_path: Path) -> None:
    archive, out = tmp_path / "images.zip", tmp_path / "out"

    def zipped() -> None:
        with zipfile.ZipFile(archive, "w") as file:
            for path in (raw / "images").iterdir():
                file.write(path, path.name)

    def again(*options: str, max_rejects: str = "0.2") -> int:
        places = ["--annotations", str(raw / "drawn.json"), "--images", str(archive), "--out", str(out)]
        return main([*places, "--workers", "1", "--max-rejects", max_rejects, *options])

    good = (raw / "images" / "3.png").read_bytes()
    broken(raw / "images")
    zipped()
    with pytest.raises(UserError, match="1 of 8 records refused"):
        again(max_rejects="0")
    (raw / "images" / "3.png").write_bytes(good)
    zipped()
    with pytest.raises(UserError, match=r"out\.partial was begun with other images; .* --overwrite"):
        again()
    assert again("--overwrite") == 0
    assert len(images_in(out)) == SAMPLES
    (raw / "images" / "3.png").write_bytes(image(40, 90, "blue", 99))
    zipped()
    with pytest.raises(UserError, match=r"out was packed with other images; .* --overwrite"):
        again()
    (raw / "drawn.json").write_text(json.dumps(json.loads((raw / "drawn.json").read_text())[:5]))
    with pytest.raises(UserError, match=r"out was packed with other annotations, images; .* --overwrite"):
        again()


def test_annotations_of_one_name_are_told_apart(raw: Path, tmp_path: Path) -> None:
    """What is refused in one of them stands, by its name and number, in the other as well."""
    (tmp_path / "more").mkdir()
    records = json.loads((raw / "drawn.json").read_text())
    records[0]["image"] = "gone.png"
    (tmp_path / "more" / "drawn.json").write_text(json.dumps(records))
    out = tmp_path / "out"
    command = ["--annotations", str(raw / "drawn.json"), str(tmp_path / "more" / "drawn.json"), "--out", str(out)]
    command += ["--images", str(raw / "images"), "--max-rejects", "0.2", "--workers", "1"]
    assert main(command) == 0
    inode = next(out.glob("*.tar")).stat().st_ino
    assert main(command) == 0
    assert next(out.glob("*.tar")).stat().st_ino == inode
    shutil.copy(raw / "images" / "0.png", raw / "images" / "gone.png")
    assert main(command) == 0
    assert len(images_in(out)) == 2 * SAMPLES
