"""The stages between the order and a batch."""

import pickle
from pathlib import Path

import pytest
from webdataset.pipeline import DataPipeline

from datamodules.llava_shards import LLaVAShards
from tests.drawn import drawn_shards, raw_shards


def data(shards: Path, workers: int = 0) -> LLaVAShards:
    return LLaVAShards(
        str(shards),
        tokenizer="jersey",
        batch_size=3,
        tile_size=16,
        grid_pinpoints=None,
        test=str(shards),
        workers=workers,
    )


def test_a_pipeline_that_was_pickled_gives_the_same_batches(tmp_path: Path) -> None:
    stream = data(drawn_shards(tmp_path, 12)).train_dataloader()
    pipeline = stream.pipeline(stream.sampler.batches().after(1))
    assert isinstance(pipeline, DataPipeline)
    copy = pickle.loads(pickle.dumps(pipeline))
    keys = [batch.keys for batch, _ in pipeline]
    assert [len(one) for one in keys] == [3, 3, 3]
    assert [batch.keys for batch, _ in copy] == keys == [batch.keys for batch in stream][1:]


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_a_batch_of_which_all_samples_are_left_out_leaves_the_others_in_order(tmp_path: Path, workers: int) -> None:
    good = b'{"id": "x", "conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]}'
    bad = {0, 1, 2, 7}  # the whole first batch, and one of the third
    shards = raw_shards(tmp_path / "shards", [(b"{}" if number in bad else good, None) for number in range(14)])
    batches = [batch.keys for batch in data(shards, workers).sequential_batches("test", 0, 14)]
    assert [[int(key) for key in keys] for keys in batches] == [[3, 4, 5], [6, 8], [9, 10, 11], [12, 13]]
