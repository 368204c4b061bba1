"""Several data sets as one, and batches of similar length, through the data module."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from datamodules.llava_shards import LLaVAShards
from datamodules.loading.length_grouping import sample_sizes
from datamodules.loading.loader import ResumableLoader
from datamodules.loading.mixture import WeightedShards
from datamodules.shards.reader import ShardedSamples
from lit_avg.utils.errors import UserError
from tests.drawn import drawn_shards


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return drawn_shards(tmp_path_factory.mktemp("large"), 20), drawn_shards(tmp_path_factory.mktemp("small"), 5)


def mixture(folders: tuple[Path, Path], weight: float = 2.0, batch_size: int = 3, group: bool = False) -> LLaVAShards:
    large, small = (str(folder) for folder in folders)
    return LLaVAShards(
        train=[WeightedShards(large, name="large"), WeightedShards(small, weight, "small")],
        tokenizer="jersey",
        batch_size=batch_size,
        tile_size=16,
        grid_pinpoints=[[16, 32], [32, 16]],
        val=small,
        system_prompt=None,
        group_by_length=group,
    )


def keys(stream: ResumableLoader) -> list[list[str]]:
    return [batch.keys for batch in stream]


def test_a_mixture_shows_each_source_by_its_weight_and_counts_it(folders: tuple[Path, Path]) -> None:
    stream = mixture(folders).train_dataloader()
    seen = Counter(key.partition("/")[0] for batch in keys(stream) for key in batch)
    assert sum(seen.values()) == 30  # 20 and 2 x 5
    assert stream.seen == dict(seen) == {"large": 20, "small": 10}


def test_a_mixture_goes_on_where_it_stopped_and_so_do_its_counts(folders: tuple[Path, Path]) -> None:
    whole, stopped, resumed = (mixture(folders, group=True).train_dataloader() for _ in range(3))
    expected = keys(whole)
    begun = iter(stopped)
    first = [next(begun).keys for _ in range(4)]
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    assert first + keys(resumed) == expected
    assert resumed.seen == whole.seen


def test_going_on_with_other_weights_is_refused(folders: tuple[Path, Path]) -> None:
    state = mixture(folders).train_dataloader().state_dict()
    with pytest.raises(UserError, match="weights was 1 2 and is 1 4"):
        mixture(folders, 4.0).train_dataloader().load_state_dict(state)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([], "the list of data sets is empty"),
        ([WeightedShards("a/x"), WeightedShards("b/x")], "several data sets are called x"),
        ([WeightedShards("a/x", 0.0)], "the weight of x is 0.0"),
        ([WeightedShards("a/x", None)], "the weight of x is None"),  # pyright: ignore[reportArgumentType]  as parsed
    ],
)
def test_a_mixture_without_names_or_weights_is_refused(train: list[WeightedShards], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LLaVAShards(train=train, tokenizer="jersey", batch_size=1, tile_size=16, grid_pinpoints=None)


def test_grouped_batches_have_images_or_none(folders: tuple[Path, Path]) -> None:
    batches = list(mixture(folders, group=True, batch_size=2).train_dataloader())
    images = [len(batch.tile_grids) for batch in batches]
    assert set(images[:-1]) == {0, 2}
    assert len(images) == 15  # 20 and 2 x 5 samples, 6 of them without an image, by twos


def test_sizes_are_read_from_headers_once_and_kept(folders: tuple[Path, Path]) -> None:
    samples = ShardedSamples(folders[0])
    sizes = sample_sizes(samples)
    assert sizes[:5, 1:].tolist() == [[90, 40], [73, 53], [56, 66], [39, 79], [0, 0]]  # as `draw_llava` draws them
    (kept,) = folders[0].glob("sizes-*.npy")
    np.save(kept, sizes + 1)
    assert (sample_sizes(samples) == sizes + 1).all()  # it was not read again
    kept.unlink()
