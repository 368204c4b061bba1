"""When a shard is full, by bytes or by samples; what is written is read back in `tests/datamodules/packing`."""

from pathlib import Path

import pytest

from datamodules.shards.writer import ShardWriter


@pytest.mark.parametrize(
    ("shard_bytes", "shard_samples", "expected"),
    [
        (None, None, [5]),
        (None, 2, [2, 2, 1]),
        (3000, None, [3, 2]),  # each takes a header of 512 bytes and 400 filled up to 512: 3 x 1024 + 400 > 3000
        (3000, 2, [2, 2, 1]),
        (1000, 2, [1, 1, 1, 1, 1]),
    ],
)
def test_a_shard_is_closed_by_whichever_bound_comes_first(
    tmp_path: Path, shard_bytes: int | None, shard_samples: int | None, expected: list[int]
) -> None:
    writer = ShardWriter(tmp_path, shard_bytes, shard_samples=shard_samples)
    for _ in range(5):
        writer.write(b"x" * 400)
    writer.close()
    assert [shard.samples for shard in writer.shards] == expected
