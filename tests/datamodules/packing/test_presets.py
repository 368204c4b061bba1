"""What people's data sets are like, in small."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from datamodules.encoding.image_decoding import decode_image
from datamodules.packing.command import main
from datamodules.packing.examine import Resizing
from datamodules.packing.pack import REJECTS, PackJob, PackReport, pack
from datamodules.packing.presets import PRESETS, preset_named
from datamodules.packing.roots import ImageRoot, parse_root
from datamodules.shards.reader import ShardedSamples
from datamodules.shards.sample import Sample
from lit_avg.utils.errors import UserError
from tests.drawn import image

PNG = image(30, 20, "red", 0)


def said(*texts: str, first: str = "human") -> list[dict[str, str]]:
    speakers = ("human", "gpt") if first == "human" else ("gpt", "human")
    return [{"from": speakers[number % 2], "value": text} for number, text in enumerate(texts)]


def zipped(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, PNG)
    return path


def packed(
    tmp_path: Path, records: list[Any], *roots: ImageRoot, preset: str = "generic", resizing: Resizing | None = None
) -> tuple[list[Sample], PackReport, list[dict[str, Any]]]:
    (tmp_path / "it.json").write_text(json.dumps(records))
    job = PackJob((tmp_path / "it.json",), roots, preset, resizing=resizing or Resizing())
    report = pack(job, tmp_path / "out", max_rejects=1.0)
    samples = ShardedSamples(tmp_path / "out")
    rejects = [json.loads(line) for line in (tmp_path / "out" / REJECTS).read_text().splitlines()]
    return [samples[number] for number in range(len(samples))], report, rejects


def ids(tmp_path: Path) -> list[str]:
    shard = (tmp_path / "out" / "shard-000000.tar").read_bytes()
    return [json.loads(part)["id"] for part in shard.replace(b"\0", b"\n").split(b"\n") if part.startswith(b'{"id"')]


def test_ids_may_be_numbers_missing_or_repeated(tmp_path: Path) -> None:
    turns = said("Why?", "So.")
    records = [{"id": 7, "conversations": turns}, {"conversations": turns}, {"id": 7, "conversations": turns}]
    samples, _, _ = packed(tmp_path, [*records, {"id": None, "conversations": turns}])
    assert [sample.key for sample in samples] == ["000000000", "000000001", "000000002", "000000003"]
    assert ids(tmp_path) == ["7", "it.json#1", "7", "it.json#3"]


def test_captions_of_cc595k_out_of_its_zip(tmp_path: Path) -> None:
    names = ["GCC_train_1.jpg", "GCC_train_2.jpg"]
    records = [
        {"id": "GCC_train_1", "image": names[0], "conversations": said("Describe it.\n<image>", "a red box")},
        {"id": "GCC_train_2", "image": names[1], "conversations": said("<image>\nDescribe it.", "a box")},
    ]
    for number, folder in enumerate(("", "images/")):
        place = tmp_path / str(number)
        place.mkdir()
        root = ImageRoot(zipped(place / "images.zip", *(folder + name for name in names)))
        samples, _, rejects = packed(place, records, root, preset="cc595k")
        assert [sample.image for sample in samples] == [PNG, PNG]
        assert rejects == []


def test_allava_out_of_one_zip_per_set(tmp_path: Path) -> None:
    laion, vflan = zipped(tmp_path / "l.zip", "images/1.jpeg"), zipped(tmp_path / "v.zip", "images/task/2.png")
    records = [
        {
            "id": "allava_laion_cap_0",
            "image": "allava_laion/images/1.jpeg",
            "conversations": said("<image>Tell me.", "x"),
        },
        {
            "id": "allava_vflan_inst_0",
            "image": "allava_vflan/images/task/2.jpg",
            "conversations": said("Q\n<image>", "x"),
        },
        {"id": "allava_laion_cap_1", "image": "allava_laion/images/9.jpeg", "conversations": said("<image>\nQ", "x")},
    ]
    roots = [parse_root(f"allava_laion={laion}"), parse_root(f"allava_vflan={vflan}")]
    samples, report, rejects = packed(tmp_path, records, *roots, preset="allava")
    assert [sample.image for sample in samples] == [PNG, PNG]
    assert [(reject["id"], reject["source"]) for reject in rejects] == [("allava_laion_cap_1", "it.json#2")]
    assert report.refused == {"image missing": 1}


@pytest.mark.parametrize("preset", ["llava-665k", "open-llava-next-1m"])
def test_what_is_no_round_in_the_mixes_is_left_out(tmp_path: Path, preset: str) -> None:
    records: list[dict[str, Any]] = [
        {"id": 1, "conversations": said("Hello!", "Why?", "So.", first="gpt")},
        {"id": 2, "conversations": said("Why?", "So.", "And?")},
        {"id": 3, "conversations": said("Why?", "", "And?", "Then.")},
        {"id": 4, "conversations": said("Why?", "")},
        {"id": 5, "image": "ocr_vqa/images/5.jpg", "conversations": said("<image>\nWhy?", "So.", "", "x")},
        {"id": 6, "conversations": said("Hello!", first="gpt")},
    ]
    root = ImageRoot(zipped(tmp_path / "it.zip", "ocr_vqa/images/5.gif"))
    samples, report, rejects = packed(tmp_path, records, root, preset=preset)
    assert [[turn.text for turn in sample.turns] for sample in samples] == [
        ["Why?", "So."],
        ["Why?", "So."],
        ["And?", "Then."],
        ["<image>\nWhy?", "So."],
    ]
    assert [reject["id"] for reject in rejects] == [4, 6]
    assert report.left_out == {
        "a leading answer left out": 1,
        "a trailing question left out": 1,
        "an empty round left out": 2,
    }


def test_the_round_with_the_image_is_never_left_out(tmp_path: Path) -> None:
    records = [{"id": 1, "image": "1.png", "conversations": said("<image>", "", "Why?", "So.")}]
    root = ImageRoot(zipped(tmp_path / "it.zip", "1.png"))
    _, _, rejects = packed(tmp_path, [*records, {"conversations": said("a", "b")}], root, preset="llava-665k")
    assert [reject["reason"] for reject in rejects] == ["an empty answer"]


def test_a_system_prompt_may_be_a_turn_or_a_field(tmp_path: Path) -> None:
    turns = said("Why?", "So.")
    records = [
        {"conversations": [{"from": "system", "value": "Be brief."}, *turns]},
        {"system": "Be brief.", "conversations": turns},
        {"system": "", "conversations": [{"from": "system", "value": " "}, *turns]},
    ]
    samples, _, _ = packed(tmp_path, records)
    assert [[turn.text for turn in sample.system] for sample in samples] == [["Be brief."], ["Be brief."], []]


def test_kinds_that_do_not_fit_and_text_that_is_no_unicode_are_refused(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"conversations": said("Why?", "So.")},
        {"conversations": said("Why?", "So."), "kinds": ["a", "b"]},
        {"conversations": said("Why?", "\ud83d")},
    ]
    lines = tmp_path / "it.jsonl"
    lines.write_text("\n".join(json.dumps(record) for record in records))
    pack(PackJob((lines,)), tmp_path / "out", max_rejects=1.0)
    rejects = [json.loads(line)["reason"] for line in (tmp_path / "out" / REJECTS).read_text().splitlines()]
    assert rejects == [
        "kinds that are not one for each round: 1 rounds",
        "text that is not Unicode: surrogates not allowed",
    ]


def test_images_are_made_smaller_or_written_anew_only_when_asked(tmp_path: Path) -> None:
    large, small = image(64, 32, "red", 1), image(16, 16, "red", 2)
    (tmp_path / "large.png").write_bytes(large)
    (tmp_path / "small.png").write_bytes(small)
    records = [{"image": f"{name}.png", "conversations": said("<image>\nQ", "A")} for name in ("large", "small")]
    found: dict[str, list[bytes | None]] = {}
    for name, resizing in {"as is": Resizing(), "side": Resizing(32), "both": Resizing(32, 80)}.items():
        (tmp_path / name).mkdir()
        samples, _, _ = packed(tmp_path / name, records, ImageRoot(tmp_path), resizing=resizing)
        found[name] = [sample.image for sample in samples]
    assert found["as is"] == [large, small]
    assert found["side"][1] == small
    for name in ("side", "both"):
        assert [decode_image(image or b"", "it").size for image in found[name]] == [(32, 16), (16, 16)]
    assert found["both"][1] != small
    with pytest.raises(UserError, match="--quality is a JPEG quality from 1 to 100, but is 0"):
        Resizing(quality=0)


def test_the_manifest_names_sources_settings_and_totals(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "it.zip", "1.png")
    (tmp_path / "it.json").write_text(
        json.dumps(
            [{"image": "1.png", "conversations": said("<image>\nQ", "A")}, {"conversations": said("Q", "A")}, {}]
        )
    )
    arguments = ["--annotations", str(tmp_path / "it.json"), "--images", str(archive), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--max-rejects", "0.5"]) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [source["name"] for source in manifest["sources"]["annotations"]] == ["it.json"]
    (read,) = manifest["sources"]["images"]
    assert (read["name"], read["pictures_read"], read["bytes_read"]) == ("it.zip", 1, len(PNG))
    assert manifest["settings"]["preset"] == "generic"
    totals = manifest["totals"]
    assert (totals["records"], totals["samples"], totals["refused"]) == (3, 2, 1)
    assert totals["splits"]["."] == {
        "picture_bytes": len(PNG),
        "pictures": 1,
        "rounds": 2,
        "samples": 2,
        "text_only": 1,
    }


def test_every_preset_is_told_in_the_help_and_another_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    assert all(f"\n{name}\n" in told for name in PRESETS if name != "generic")
    with pytest.raises(UserError, match="there is no preset mine; choose from generic, cc595k"):
        preset_named("mine")
