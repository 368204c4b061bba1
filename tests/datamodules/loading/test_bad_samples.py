"""Samples that are no good in the middle of training."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from datamodules.llava_shards import LLaVAShards
from datamodules.loading.bad_samples import BadSample, BadSampleLog
from lit_avg.utils.errors import UserError
from tests.drawn import drawn_shards, raw_shards


def shards_with(folder: Path, broken: dict[int, str]) -> Path:
    """Twelve drawn samples, some with a broken image or record: packing would not have let them through."""
    whole = drawn_shards(folder, 12)
    samples: list[tuple[bytes, bytes | None]] = []
    for path in sorted(whole.glob("*.tar")):
        with tarfile.open(path) as tar:
            files = {member.name: (tar.extractfile(member) or io.BytesIO()).read() for member in tar}
        for name, record in files.items():
            key, _, extension = name.partition(".")
            if extension == "json":
                image, trouble = files.get(f"{key}.png"), broken.get(int(key))
                cut = image[:60] if image and trouble == "image" else image
                samples.append((b'{"conversations": ["?"' if trouble == "record" else record, cut))
    return raw_shards(folder / "broken", samples)


def data(folder: Path, max_bad_share: float = 0.5, workers: int = 0, max_length: int = 4096) -> LLaVAShards:
    return LLaVAShards(
        train=str(folder),
        tokenizer="jersey",
        batch_size=2,
        tile_size=16,
        grid_pinpoints=None,
        test=str(folder),
        system_prompt=None,
        max_length=max_length,
        workers=workers,
        max_bad_share=max_bad_share,
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_sample_stands_in_for_a_broken_one(tmp_path: Path, workers: int) -> None:
    stream = data(shards_with(tmp_path, {3: "image", 5: "record"}), workers=workers).train_dataloader()
    stream.bad_samples = BadSampleLog(tmp_path / "run", 0, 1, allowed=2)
    batches = [batch.keys for batch in stream]
    seen = sorted(int(key) for keys in batches for key in keys)
    assert seen == [0, 1, 2, 4, 4, 6, 6, 7, 8, 9, 10, 11]  # 4 twice, for 3, and 6 twice, for 5
    assert [len(keys) for keys in batches] == [2] * 6
    assert stream.replaced == 2
    lines = (tmp_path / "run" / "bad_samples.rank0.jsonl").read_text().splitlines()
    told = {record["index"]: record for record in map(json.loads, lines)}
    assert {index: record["replaced_by"] for index, record in told.items()} == {3: 4, 5: 6}
    assert "sample 000000003: an image that cannot be read" in told[3]["reason"]
    assert "sample 000000005 is not a conversation" in told[5]["reason"]


def test_too_many_broken_samples_end_the_run(tmp_path: Path) -> None:
    stream = data(shards_with(tmp_path, {3: "image", 4: "record", 8: "image"}), max_bad_share=0.2)
    with pytest.raises(UserError, match=r"3 samples are no good, and 2 are allowed; .* or raise max_bad_share"):
        list(stream.train_dataloader())  # 0.2 x 12 = 2.4


def test_a_broken_sample_is_an_error_in_evaluation(tmp_path: Path) -> None:
    module = data(shards_with(tmp_path, {3: "image"}))
    with pytest.raises(UserError, match="sample 000000003: an image that cannot be read"):
        list(module.test_dataloader())


def test_nothing_stands_in_where_all_samples_are_broken(tmp_path: Path) -> None:
    module = data(shards_with(tmp_path, dict.fromkeys(range(12), "record")), max_bad_share=1.0)
    with pytest.raises(UserError, match="12 samples in a row are no good; the first: sample"):
        list(module.train_dataloader())


def test_a_sample_without_room_for_its_answer_counts_as_bad(tmp_path: Path) -> None:
    shards = drawn_shards(tmp_path, 6)
    longest = max(len(batch.input_ids[0]) for batch in data(shards).test_dataloader())
    short = data(shards, max_bad_share=0.9, max_length=longest - 1)
    stream = short.train_dataloader()
    kept = {key for batch in stream for key in batch.keys}
    assert 0 < len(kept) == 6 - stream.replaced < 6
    with pytest.raises(UserError, match=r"sample 0000000\d\d: its first answer ends at token"):
        list(short.test_dataloader())


def test_bad_samples_are_counted_once_over_restarts_and_ranks(tmp_path: Path) -> None:
    def bad(index: int) -> BadSample:
        return BadSample("a", index, f"sample {index}", index + 1)

    first, second = (BadSampleLog(tmp_path, rank, 2, allowed=3) for rank in range(2))
    first.note([bad(1), bad(2)])
    second.note([bad(7)])
    with (tmp_path / "bad_samples.rank0.jsonl").open("a") as file:
        file.write('{"source": "a", "ind')  # killed here
    again = BadSampleLog(tmp_path, 0, 2, allowed=3)
    again.go_on()
    assert again.known == {1, 2, 7}
    again.note([bad(1), bad(2)])
    with pytest.raises(UserError, match="4 samples are no good, and 3 are allowed"):
        again.note([bad(9)])
    fresh = BadSampleLog(tmp_path, 0, 1, allowed=3)
    fresh.start_anew()
    assert list(tmp_path.iterdir()) == []
