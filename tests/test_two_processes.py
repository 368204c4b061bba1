"""Two processes train as one: equally many batches, none twice, no waiting for each other, and on after a kill."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drawn import drawn_shards
from tests.processes import by_step, drawn_data, finish, kill_when, losses, reached, run_of, write_config
from tests.tiny import VOCABULARY

TWO = {"devices": 2, "strategy": "ddp"}


@pytest.fixture
def temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="p", dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.slow
def test_both_ranks_go_on_after_a_kill_with_the_samples_they_had_not_seen(tmp_path: Path, temporary: Path) -> None:
    shards = drawn_shards(tmp_path, samples=11, shard_bytes=20_000)  # uneven shards, and a sample too many
    data = drawn_data(shards, batch_size=1, workers=1)
    configs: list[str] = []
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        configs.append(write_config(tmp_path / name, "MultiGranularityTuning", data, 13, **TWO))
    whole, killed = configs
    finish(whole, temporary)
    kill_when(reached(7), killed, temporary)  # in the second epoch: one has 5 batches on each rank
    finish(killed, temporary)
    for rank in (0, 1):
        expected = by_step(run_of(whole), rank)
        assert sorted(expected) == list(range(1, 14))
        assert by_step(run_of(killed), rank) == expected
    shown = [[what.split(",")[1] for _, what in losses(run_of(whole), rank)] for rank in (0, 1)]
    for epoch in (slice(0, 5), slice(5, 10)):
        assert len(set(shown[0][epoch]) | set(shown[1][epoch])) == 10


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["MultiGranularityTuning", "RGLF"])
def test_a_rank_with_text_alone_keeps_step_with_one_that_sees_pictures(
    stage: str, tmp_path: Path, temporary: Path
) -> None:
    data = {"class_path": "tests.tiny_run.TextOnSecondRank"}
    validating = {"limit_val_batches": 0}
    config = write_config(tmp_path, stage, data, 3, VOCABULARY, **TWO, **validating)
    finish(config, temporary)
    assert [step for step, _ in losses(run_of(config), rank=0)] == [1, 2, 3]
    assert [step for step, _ in losses(run_of(config), rank=1)] == [1, 2, 3]
