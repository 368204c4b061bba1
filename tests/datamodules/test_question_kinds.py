"""A study may ask for columns of the kinds that a test has, and is told of others before anything is trained."""

import json
from pathlib import Path

import pytest

from datamodules.llava_shards import LLaVAShards
from datamodules.shards.reader import ShardedSamples, kinds_in
from lit_avg.result_names import ACCURACY, SELECTED
from lit_avg.studies.launchers.config_check import _column_mistake  # pyright: ignore[reportPrivateUsage]
from lit_avg.studies.spec.fingerprint import Checked
from tests.drawn import conversation, raw_shards


def data(train: str, test: str) -> LLaVAShards:
    return LLaVAShards(train, tokenizer="jersey", batch_size=1, tile_size=16, grid_pinpoints=None, test=test)


def shards(folder: Path, kinds: list[list[str] | None]) -> str:
    records = [conversation(n, None) | ({} if of is None else {"kinds": of}) for n, of in enumerate(kinds)]
    return str(raw_shards(folder, [(json.dumps(record).encode(), None) for record in records], shard_bytes=2000))


def test_the_kinds_of_a_tests_questions_are_read_from_its_shards(tmp_path: Path) -> None:
    train, test = shards(tmp_path / "train", [["number"]]), shards(tmp_path / "test", [["colour"], None, ["place"]] * 4)
    module = data(train, test)
    assert module.question_kinds == ("all", "colour", "place")
    assert data(train, str(tmp_path / "gone")).question_kinds is None


def test_records_that_are_none_hide_no_kinds_of_others(tmp_path: Path) -> None:
    records = [b"[]", b"{", b'{"kinds": [["deep"]]}', b'{"kinds": ["colour"]}']
    shards = raw_shards(tmp_path / "shards", [(record, None) for record in records], shard_bytes=10_000)
    assert kinds_in(ShardedSamples(shards)) == {"colour"}


@pytest.mark.parametrize(
    ("column", "mistake"),
    [
        ("accuracy/colour", None),
        ("selected/144", None),
        ("selected/colour/144", None),
        ("accuracy/shape", "its questions are of the kinds all, colour"),
        ("selected/shape/144", "its questions are of the kinds all, colour"),
        ("selected/100", "its levels are 144, 576"),
        ("selected/colour/100", "its levels are 144, 576"),
    ],
)
def test_a_column_of_a_kind_or_level_that_a_test_does_not_have_is_a_mistake(column: str, mistake: str | None) -> None:
    metrics, kinds = {metric.name: metric for metric in (ACCURACY, SELECTED)}, ["all", "colour"]
    known = Checked("", {}, [], metrics, kinds, None, None, [144, 576])
    assert _column_mistake(column, known) == mistake
