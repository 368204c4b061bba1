import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import webdataset

from datamodules.packing.command import main
from datamodules.packing.pack import REJECTS, PackJob, PackReport, pack
from datamodules.packing.roots import ImageRoot
from datamodules.shards.manifest import MANIFEST, read_manifest
from datamodules.shards.reader import ShardedSamples
from lit_avg.utils.errors import UserError
from tests.drawn import conversation, draw_llava, drawn_shards, image

ASKED = [{"from": "human", "value": "<image>\nWhich colour?"}, {"from": "gpt", "value": "red"}]


def command(annotations: Path, images: Path, out: Path, *options: str) -> int:
    return main(
        ["--annotations", str(annotations), "--images", str(images), "--out", str(out), "--workers", "1", *options]
    )


def packed(annotations: Path, images: Path, out: Path, shard_bytes: int = 2**28) -> PackReport:
    return pack(PackJob((annotations,), (ImageRoot(images),), shard_bytes=shard_bytes), out, max_rejects=1.0)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def packed_records(tmp_path: Path, records: list[Any]) -> tuple[int, list[str]]:
    """How many samples were packed, and why the others were not; `0.png` is there."""
    (tmp_path / "0.png").write_bytes(image(20, 10, "red", 0))
    (tmp_path / "records.json").write_text(json.dumps([*records, conversation(0, "red")]))
    report = packed(tmp_path / "records.json", tmp_path, tmp_path / "out")
    rejects = [json.loads(line) for line in (tmp_path / "out" / REJECTS).read_text().splitlines()]
    assert [reject["source"] for reject in rejects] == [f"records.json#{number}" for number in range(len(rejects))]
    assert report.refused.total() == len(rejects)
    return report.samples, [reject["reason"] for reject in rejects]


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    annotations, images = draw_llava(tmp_path / "raw", samples=9, rounds=2)
    packed(annotations, images, tmp_path / "out", shard_bytes=20_000)
    samples = ShardedSamples(tmp_path / "out")
    assert len(samples.manifest.shards) > 1
    for number, record in enumerate(json.loads(annotations.read_text())):
        sample = samples[number]
        assert sample.key == f"{number:09d}"
        assert [turn._asdict() for turn in sample.turns] == [
            {"speaker": turn["from"], "text": turn["value"]} for turn in record["conversations"]
        ]
        original = (images / record["image"]).read_bytes() if "image" in record else None
        assert sample.image == original


def test_webdataset_reads_the_shards(tmp_path: Path) -> None:
    folder = drawn_shards(tmp_path, samples=5)
    urls = sorted(str(path) for path in folder.glob("*.tar"))
    found = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in found] == [f"{number:09d}" for number in range(5)]
    assert [json.loads(sample["json"])["id"] for sample in found] == [f"drawn-{number}" for number in range(5)]
    assert ["png" in sample for sample in found] == [True] * 4 + [False]


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    annotations, images = draw_llava(tmp_path / "raw")
    for out in ("one", "other"):
        packed(annotations, images, tmp_path / out)
        os.utime(images / "0.png", (0, 0))
    assert contents(tmp_path / "one") == contents(tmp_path / "other")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("no record", "not a record"),
        ({"id": "1"}, "no conversation in LLaVA's form: KeyError('conversations')"),
        ({"conversations": ["hello"]}, "no conversation in LLaVA's form"),
        ({"conversations": []}, "0 turns, which is no whole number of rounds"),
        ({"conversations": ASKED[:1], "image": "0.png"}, "1 turns, which is no whole number of rounds"),
        ({"conversations": ASKED[::-1], "image": "0.png"}, "speakers that do not take turns"),
        ({"conversations": [ASKED[0], {"from": "bot", "value": "red"}], "image": "0.png"}, "unknown speaker bot"),
        ({"conversations": [ASKED[0], {"from": "gpt", "value": " "}], "image": "0.png"}, "an empty answer"),
        ({"conversations": ASKED, "image": ["0.png", "1.png"]}, "several images"),
        ({"conversations": ASKED, "image": "1.png"}, "image missing: 1.png"),
        ({"conversations": ASKED, "image": "records.json"}, "image broken: records.json: not an image"),
        ({"conversations": ASKED, "image": "../out/0.png"}, "image outside the image folder"),
        ({"conversations": ASKED, "image": "/etc/passwd"}, "image outside the image folder"),
        ({"conversations": ASKED}, "1 <image> for 0 image"),
        ({"conversations": [*ASKED, *ASKED], "image": "0.png"}, "2 <image> for 1 image"),
        ({"conversations": conversation(0, None)["conversations"], "image": "0.png"}, "no <image> in the first"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_with_a_reason(tmp_path: Path, record: Any, reason: str) -> None:
    samples, reasons = packed_records(tmp_path, [record])
    assert samples == 1
    assert len(reasons) == 1
    assert reasons[0].startswith(reason)


TEXT = [{"from": "human", "value": "What colour is the shirt?"}, {"from": "gpt", "value": "red"}]


@pytest.mark.parametrize(
    ("media", "key"),
    [
        *(
            ({key: "0.png"}, key)
            for key in ("video", "image_path", "image_url", "img", "picture", "Image", "imageFile")
        ),
        *(({key: ["0.png"]}, key) for key in ("images", "videos", "audio", "image_list", "frames", "photo_urls")),
        ({"images": [{"path": "0.png"}]}, "images"),
        *(({key: value}, key) for key, value in (("image_id", "7"), ("video_id", "a"), ("imageId", 0))),
        ({"image": "", "image_1": "0.png"}, "image_1"),
        ({"image": "0.png", "video": "0.mp4"}, "video"),
        ({"image": "0.png", "images": ["0.png", "1.png"]}, "images"),
        ({"conversations": [TEXT[0] | {"image": "0.png"}, TEXT[1]]}, "conversations.image"),
    ],
)
def test_media_that_are_not_read_are_never_packed_as_text(
    tmp_path: Path, media: dict[str, Any], key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = ASKED if media.get("image") else TEXT
    reason = f"media named in `{key}`, which is not read"
    samples, reasons = packed_records(tmp_path, [{"id": "1", "conversations": turns} | media])
    assert (samples, reasons) == (1, [f"{reason}: a record has one image, in `image`"])
    assert command(tmp_path / "records.json", tmp_path, tmp_path / "again", "--max-rejects", "1") == 0
    assert f"1 records refused (1 × {reason})" in capsys.readouterr().out


@pytest.mark.parametrize(
    "more",
    [
        {"images": [], "video": None, "audio": ""},
        {"image_id": "", "image_size": [20, 10], "video_id": None, "num_images": 1, "imagery": "vivid", "caption": "a"},
        {"image": "0.png", "image_id": 7, "video_id": "a", "picture_id": "0"},
        {"image": "0.png", "image_url": "https://example.org/0.png", "images": ["0.png"]},
    ],
)
def test_what_only_tells_of_an_image_is_no_other_media(tmp_path: Path, more: dict[str, Any]) -> None:
    record = {"conversations": ASKED if "image" in more else TEXT} | more
    assert packed_records(tmp_path, [record]) == (2, [])


def test_text_without_ids_is_split_by_what_it_says_and_not_by_its_files_name(tmp_path: Path) -> None:
    records = [{"conversations": [TEXT[0], {"from": "gpt", "value": f"answer {n}"}]} for n in range(40)]
    kept: list[list[str]] = []
    for name in ("chat.json", "mix.json"):
        (tmp_path / name).write_text(json.dumps(records))
        assert command(tmp_path / name, tmp_path, tmp_path / f"{name}.shards", "--val-share", "0.3") == 0
        kept.append([sample.turns[1].text for sample in ShardedSamples(tmp_path / f"{name}.shards" / "val")])
    assert kept[0] == kept[1]
    assert 4 <= len(kept[0]) <= 20  # 12 are to be expected


def test_a_number_that_is_not_finite_matters_where_it_is_kept_alone(tmp_path: Path) -> None:
    records: list[Any] = [{"score": math.nan} | conversation(0, "red"), {"source": math.inf} | conversation(0, "red")]
    assert packed_records(tmp_path, records[::-1]) == (2, ["a number that is not finite: JSON has none"])


def test_an_image_list_of_one_and_odd_names_are_fine(tmp_path: Path) -> None:
    names = ["a.b.c.png", "-dash.png", "sp ace/quote's.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(image(8, 8, "blue", 1))
    assert packed_records(tmp_path, [{"conversations": ASKED, "image": [name]} for name in names]) == (4, [])
    assert [sample.image is not None for sample in ShardedSamples(tmp_path / "out")] == [True] * 4


def test_json_lines_and_a_json_list_give_the_same(tmp_path: Path) -> None:
    annotations, images = draw_llava(tmp_path / "raw")
    lines = annotations.with_suffix(".jsonl")
    lines.write_text("\n".join(json.dumps(record) for record in json.loads(annotations.read_text())))
    for source in (annotations, lines):
        packed(source, images, tmp_path / source.name)
    one, other = (ShardedSamples(tmp_path / source.name) for source in (annotations, lines))
    assert one.manifest.shards == other.manifest.shards


def test_no_image_is_in_both_splits(tmp_path: Path) -> None:
    annotations, images = draw_llava(tmp_path / "raw", samples=40)
    records = json.loads(annotations.read_text())
    annotations.write_text(json.dumps(records + records))  # every image twice
    assert command(annotations, images, tmp_path / "out", "--val-share", "0.3") == 0
    train, val = (ShardedSamples(tmp_path / "out" / split) for split in ("train", "val"))
    assert len(train) + len(val) == 80
    assert 8 <= len(val) <= 40  # 24 are to be expected
    assert not {sample.image for sample in train if sample.image} & {sample.image for sample in val if sample.image}


def test_a_second_call_finds_it_done_and_other_settings_need_to_be_confirmed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations, images = draw_llava(tmp_path / "raw")
    out = tmp_path / "out"
    assert command(annotations, images, out) == 0
    before = contents(out)
    assert command(annotations, images, out) == 0
    assert "already done" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"packed with other shard_bytes; .* --overwrite"):
        command(annotations, images, out, "--shard-size-mb", "0.02")
    assert contents(out) == before
    assert command(annotations, images, out, "--shard-size-mb", "0.02", "--overwrite") == 0
    assert len(read_manifest(out).shards) > 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]


def test_a_folder_that_holds_something_else_is_never_replaced(tmp_path: Path) -> None:
    annotations, images = draw_llava(tmp_path / "raw")
    with pytest.raises(UserError, match="holds no shards of ours"):
        command(annotations, images, tmp_path / "raw", "--overwrite")
    assert annotations.is_file()


def test_a_manifest_that_cannot_be_read_is_named_and_its_data_are_left(tmp_path: Path) -> None:
    annotations, images = draw_llava(tmp_path)
    command = ["--annotations", str(annotations), "--images", str(images), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    for garbled in ('{"settings": {"pre', "", "[]", '{"samples": 12}'):
        (tmp_path / "out" / MANIFEST).write_text(garbled)
        with pytest.raises(
            UserError, match=r"manifest\.json cannot be read .*; bring it back, or remove .*out and pack"
        ):
            main([*command, "--overwrite"])
        assert (tmp_path / "out" / "shard-000000.tar").is_file()


def test_missing_input_is_named(tmp_path: Path) -> None:
    annotations, images = draw_llava(tmp_path / "raw")
    with pytest.raises(UserError, match=r"no annotations file .*gone\.json"):
        command(tmp_path / "gone.json", images, tmp_path / "out")
    with pytest.raises(UserError, match=r"no image folder, zip or tar .*gone"):
        command(annotations, tmp_path / "gone", tmp_path / "out")
    with pytest.raises(UserError, match=r"0\.png is not JSON"):
        command(images / "0.png", images, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_annotations_of_which_nothing_can_be_packed_leave_nothing_behind(tmp_path: Path) -> None:
    annotations, _ = draw_llava(tmp_path / "raw", samples=3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"none of the 3 records in .* can be packed: 3 × image missing"):
        command(annotations, tmp_path / "empty", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "raw"]


def test_a_full_disk_keeps_what_is_packed_and_the_same_command_goes_on(tmp_path: Path) -> None:
    annotations, images = draw_llava(tmp_path / "raw", samples=12)
    (images / "11.png").write_bytes(image(200, 200, "red", 11))  # 100 kB of noise
    arguments = ["--annotations", str(annotations), "--images", str(images), "--shard-size-mb", "0.02"]
    stopped = [*arguments, "--out", str(tmp_path / "out"), "--workers", "1"]
    script = f"""
import resource
from lit_avg import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # the kernel refuses to write more into a file
raise SystemExit(cli.main(["shard", *{stopped!r}]))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 2, run.stderr
    kept = f"what is packed is kept in {tmp_path / 'out.partial'}, and the same command goes on from there"
    assert run.stderr == f"lit-avg: cannot write {tmp_path / 'out'}: File too large; {kept}\n"
    assert main(stopped) == 0
    assert command(annotations, images, tmp_path / "undisturbed", "--shard-size-mb", "0.02") == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_packing_loads_neither_torch_nor_transformers() -> None:
    script = "import sys, datamodules.packing.command; print({'torch', 'transformers', 'lightning'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout == "set()\n"


def test_shards_that_are_missing_cut_or_unfinished_are_named(tmp_path: Path) -> None:
    folder = drawn_shards(tmp_path, samples=12)
    shard = sorted(folder.glob("*.tar"))[-1]
    data = shard.read_bytes()
    shard.write_bytes(data[:-512])
    with pytest.raises(UserError, match=rf"{shard.name} has {len(data) - 512} bytes instead of {len(data)}"):
        read_manifest(folder)
    shard.unlink()
    with pytest.raises(UserError, match=rf"{shard.name} is missing"):
        read_manifest(folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(UserError, match=f"no shards in .*there is no {MANIFEST} in it"):
        read_manifest(folder)
    with pytest.raises(UserError, match=r"no shards in .*there is no such folder"):
        read_manifest(tmp_path / "gone")
