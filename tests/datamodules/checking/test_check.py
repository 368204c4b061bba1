"""`lit-avg data check` finds any change, and counts what is there."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datamodules.checking.command import main, scan, shards_to_scan
from datamodules.checking.configs import measure_settings_of
from datamodules.checking.measure import MeasureSettings
from datamodules.checking.statistics import Statistics, Tally, aspect
from datamodules.packing.pack import PackJob, pack
from datamodules.packing.roots import ImageRoot
from lit_avg.utils.errors import UserError
from tests.drawn import conversation, draw_llava, drawn_shards, image

ROOT = Path(__file__).parents[3]

SMALL = MeasureSettings(
    tokenizer="jersey",
    system_prompt=None,
    max_length=60,
    tile_size=28,
    grid_pinpoints=((28, 56), (56, 28)),
    granularities=(1, 2, 4),
)


def test_whole_shards_are_told_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = drawn_shards(tmp_path, samples=12, rounds=2)
    shards = len(list(folder.glob("*.tar")))
    assert shards > 1
    drawn = tmp_path / "it.png"
    assert main(["check", str(folder), "--tokenizer", "jersey", "--figure", str(drawn), "--workers", "1"]) == 0
    told = capsys.readouterr().out
    rows = {" ".join(line.split()) for line in told.splitlines()}
    assert {"samples 12", "turns 48", "text-only 2 (16.67%)", "longer than 4096 tokens 0 (0.00%)"} <= rows
    assert f"{shards} shards of" in told
    assert Image.open(drawn).size == (1430, 770)


def test_shards_that_lie_where_nobody_may_write_are_whole_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = drawn_shards(tmp_path, samples=12)
    (folder / "distributions.png").mkdir()  # which root, who may write everywhere, cannot write either
    assert main(["check", str(folder), "--workers", "1"]) == 0
    told = capsys.readouterr().out
    assert f"the distributions are not drawn, for {folder}/distributions.png cannot be written" in told
    assert "are as they were packed" in told
    with pytest.raises(OSError, match="directory"):
        main(["check", str(folder), "--workers", "1", "--figure", str(folder / "distributions.png")])


@pytest.mark.parametrize("place", [0, 700, -1])
def test_a_single_changed_bit_is_found_and_its_shard_named(
    tmp_path: Path, place: int, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = drawn_shards(tmp_path, samples=12)
    shard = sorted(folder.glob("*.tar"))[1]
    data = bytearray(shard.read_bytes())
    data[place] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match=rf"(?s)1 problems in .*{shard.name}: changed since it was packed"):
        main(["check", str(folder), "--workers", "1"])
    assert "samples" in capsys.readouterr().out, "the report of the others comes first"


def test_both_splits_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations, images = draw_llava(tmp_path / "raw", samples=20)
    pack(PackJob((annotations,), (ImageRoot(images),), val_share=0.3), tmp_path / "out")
    assert main(["check", str(tmp_path / "out"), "--workers", "1"]) == 0
    assert "samples train val" in {" ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
    assert (tmp_path / "out" / "distributions.png").is_file()
    (tmp_path / "out" / "val" / "shard-000000.tar").unlink()
    with pytest.raises(UserError, match=r"val/shard-000000\.tar is missing"):
        main(["check", str(tmp_path / "out")])


def test_shards_whose_manifest_was_made_to_fit_are_still_read(tmp_path: Path) -> None:
    """A shard of another data set, hash and all, does not continue this one's numbers."""
    folder = drawn_shards(tmp_path, samples=12)
    manifest = json.loads((folder / "manifest.json").read_text())
    first, second = manifest["shards"][:2]
    shutil.copy(folder / first["name"], folder / second["name"])
    manifest["shards"][1] = {**first, "name": second["name"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    _, problems = scan(shards_to_scan(folder), MeasureSettings(), workers=1)
    assert f"{second['name']}: sample 000000000 stands where {first['samples']:09d} should be" in problems[0]


def one_shard(tmp_path: Path, sizes: list[tuple[int, int]], text_only: int) -> Path:
    """Images of these widths and heights, and conversations without."""
    records = [conversation(number, "red") for number in range(len(sizes))]
    records += [conversation(number, None) for number in range(text_only)]
    for number, (width, height) in enumerate(sizes):
        (tmp_path / f"{number}.png").write_bytes(image(width, height, "red", number))
    (tmp_path / "it.json").write_text(json.dumps(records))
    pack(PackJob((tmp_path / "it.json",), (ImageRoot(tmp_path),)), tmp_path / "out")
    return tmp_path / "out"


def counted(folder: Path, settings: MeasureSettings) -> Statistics:
    splits, problems = scan(shards_to_scan(folder), settings, workers=1)
    assert problems == []
    (statistics,) = splits.values()
    return statistics


def test_images_are_counted_as_a_training_would_tile_them(tmp_path: Path) -> None:
    statistics = counted(one_shard(tmp_path, [(56, 28), (80, 20), (28, 56)], text_only=2), SMALL)
    assert (statistics.samples, statistics.text_only, statistics.images) == (5, 2, 3)
    assert statistics.grids == {(1, 2): 2, (2, 1): 1}
    # a global view of 2x2; 56x28 fills the plane of 2x4 tokens, each row with its newline: 4 + 2 * 5
    # 80x20 is fitted to 56x14, one of the plane's two rows of tokens; the other's padding lies half above, half below
    # it, so nothing is cut; 28x56 fills the plane of 4x2 tokens: 4 + 4 * 3
    assert statistics.visual[2].counts == {14: 2, 16: 1}
    assert [round(aspect(steps), 1) for steps in sorted(statistics.aspects.counts)] == [0.5, 2.0, 4.0]


def test_lengths_are_those_of_the_template(tmp_path: Path) -> None:
    folder = one_shard(tmp_path, [(56, 28)], text_only=1)
    statistics = counted(folder, SMALL)
    longest = max(statistics.lengths.counts)
    assert statistics.too_long == sum(count for length, count in statistics.lengths.counts.items() if length > 60)
    assert statistics.answers.total == 2
    assert min(statistics.answers.counts) >= len("red") - 1  # and the end token
    words = counted(folder, MeasureSettings())
    assert words.answers.counts == {1: 2}  # "red" and "none"
    assert words.lengths.counts == {5: 2}  # "Which colour is it?" and the answer
    no_room = counted(folder, MeasureSettings(tokenizer="jersey", max_length=longest - 1))
    assert no_room.no_room == no_room.too_long > 0  # the first answer is the last


def test_the_paper_s_config_is_what_is_measured_with_by_default() -> None:
    recipe = measure_settings_of([ROOT / "experiments" / "vicuna-7b" / "stage2.yaml"])
    assert recipe.tokenizer == "lmsys/vicuna-7b-v1.5"
    assert recipe == MeasureSettings(tokenizer=recipe.tokenizer)


def test_a_config_is_read_with_the_files_that_it_names(tmp_path: Path) -> None:
    smoke = measure_settings_of([ROOT / "experiments" / "real-smoke" / "stage4.yaml"])
    assert (smoke.tokenizer, smoke.system_prompt, smoke.max_length, smoke.tile_size) == ("jersey", None, 1024, 56)
    assert smoke.granularities == (1, 2, 4, 8, 16)
    with pytest.raises(UserError, match=r"there is no config .*gone\.yaml"):
        measure_settings_of([tmp_path / "gone.yaml"])
    (tmp_path / "it.yaml").write_text("class_path: datamodules.llava_shards.Gone\n")
    with pytest.raises(UserError, match=r"it\.yaml: datamodules\.llava_shards\.Gone cannot be made"):
        measure_settings_of([tmp_path / "it.yaml"])


@given(st.lists(st.integers(-50, 50), min_size=1), st.floats(0, 1))
def test_a_quantile_has_its_share_at_or_below_it(values: list[int], share: float) -> None:
    tally = Tally()
    for value in values:
        tally.add(value)
    quantile = tally.quantile(share)
    assert quantile in values
    assert sum(value <= quantile for value in values) >= share * len(values) - 1e-6
    assert sum(value < quantile for value in values) <= share * len(values)


def test_counting_apart_and_adding_up_is_counting_together(tmp_path: Path) -> None:
    folder = drawn_shards(tmp_path, samples=12)
    tasks = shards_to_scan(folder)
    assert len(tasks) > 1
    apart = [next(iter(scan([task], SMALL, workers=1)[0].values())) for task in tasks]
    for other in apart[1:]:
        apart[0].update(other)
    assert apart[0] == counted(folder, SMALL)
