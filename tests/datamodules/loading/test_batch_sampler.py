"""Promises of the order, on data sets drawn by hypothesis."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.loading.batch_sampler import ShardBatchSampler, Source
from datamodules.loading.length_grouping import Lengths, grouped, padding_share


def lengths_of(tokens: list[int], text_only_every: int) -> Lengths:
    return Lengths(np.array(tokens), np.arange(len(tokens)) % text_only_every == 0)


@st.composite
def orders(draw: st.DrawFn) -> tuple[list[Source], int, Lengths | None]:
    """Sources of some shards and weights, the samples a step, and perhaps their lengths."""
    sizes = draw(st.lists(st.integers(4, 40), min_size=1, max_size=3))
    weights = draw(st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=len(sizes), max_size=len(sizes)))
    sources = [Source(np.arange(size) // 5, weight) for size, weight in zip(sizes, weights, strict=True)]
    tokens = draw(st.lists(st.integers(1, 50), min_size=sum(sizes), max_size=sum(sizes)))
    lengths = lengths_of(tokens, draw(st.integers(1, 4))) if draw(st.booleans()) else None
    return sources, draw(st.sampled_from([1, 2])), lengths


@given(orders(), st.integers(0, 3))
def test_a_step_on_two_ranks_takes_what_it_takes_on_one_in_as_many_batches(
    drawn: tuple[list[Source], int, Lengths | None], epoch: int
) -> None:
    sources, size, lengths = drawn
    if sum(int(source.weight * len(source.shard_of_sample)) for source in sources) < 2 * size:
        return
    alone = ShardBatchSampler(sources, 2 * size, shuffle=True, lengths=lengths)
    pair = [ShardBatchSampler(sources, size, shuffle=True, rank=rank, ranks=2, lengths=lengths) for rank in range(2)]
    for order in (alone, *pair):
        order.set_epoch(epoch)
    steps = list(alone.batches())
    assert len(steps) == len(alone) == len(pair[0]) == len(pair[1])
    for step, first, second in zip(steps, *(order.batches() for order in pair), strict=True):
        assert len(first) == len(second) == size
        assert sorted(step) == sorted(first + second)
    assert list(alone.batches().after(1)) == steps[1:]


@given(orders())
def test_two_epochs_show_each_sample_twice_as_often_as_its_weight_says(
    drawn: tuple[list[Source], int, Lengths | None],
) -> None:
    sources, _, lengths = drawn
    order = ShardBatchSampler(sources, 1, shuffle=True, lengths=lengths)
    seen = Counter[int]()
    for epoch in range(2):
        order.set_epoch(epoch)
        seen.update(index for batch in order.batches() for index in batch)
    samples = np.arange(int(order.ends[-1]))
    shares = [source.weight * len(source.shard_of_sample) for source in sources]
    cut = 0 if all(share.is_integer() for share in shares) else len(sources)  # epochs are equally long, so some are cut
    for number, share in enumerate(shares):
        counts = [seen[int(index)] for index in samples[order.source_of(samples) == number]]
        assert 2 * share - 2 * cut <= sum(counts) <= 2 * share + 0.5
        assert max(counts) - min(counts) <= (2 * share % len(counts) > 0) + 2 * cut


@pytest.mark.parametrize(("samples", "weight"), [(12, 0.04), (12, 0.12), (7, 0.5), (3, 0.9)])
def test_what_a_weight_has_beyond_whole_samples_is_carried_over_to_later_epochs(samples: int, weight: float) -> None:
    order = ShardBatchSampler(
        [Source(np.zeros(60, np.int64)), Source(np.zeros(samples, np.int64), weight)], 1, shuffle=True
    )
    seen = Counter[int]()
    for epoch in range(20):
        order.set_epoch(epoch)
        batches = list(order.batches())
        assert len(batches) == len(order)
        seen.update(index for batch in batches for index in batch if index >= 60)
    assert sum(seen.values()) == round(20 * weight * samples)  # of 12 samples by 0.04: 9.6, and not 20 x round(0.48)
    assert max(seen.values()) - min(seen[60 + number] for number in range(samples)) <= 1


@given(st.lists(st.integers(1, 100), min_size=8, max_size=300), st.integers(2, 5), st.integers(1, 6), st.integers(0, 9))
def test_grouping_keeps_the_samples_and_mixes_text_with_images_in_the_last_batch_at_most(
    tokens: list[int], text_only_every: int, size: int, seed: int
) -> None:
    lengths = lengths_of(tokens, text_only_every)
    order = np.random.default_rng(seed).permutation(len(tokens))
    rearranged = grouped(order, lengths, size, np.random.default_rng(seed))
    assert len(rearranged) == len(tokens) // size * size
    assert len(set(rearranged.tolist())) == len(rearranged)
    mixed = [len(set(lengths.text_only[batch].tolist())) > 1 for batch in rearranged.reshape(-1, size)]
    assert not any(mixed[:-1])


def test_grouping_leaves_little_of_the_padding() -> None:
    tokens = np.random.default_rng(0).integers(10, 1000, 4096)
    order = np.random.default_rng(1).permutation(4096)
    batches = grouped(order, Lengths(tokens, tokens < 0), 8, np.random.default_rng(2))
    # of 8 random numbers from 10 to 1000 the mean is about 505 and the largest about 890: 43 % is padding
    assert padding_share(tokens, order, 8) == pytest.approx(0.43, abs=0.02)
    assert padding_share(tokens, batches, 8) < 0.02
    assert np.corrcoef(np.arange(512), tokens[batches].reshape(512, 8).mean(axis=1))[0, 1] < 0.2  # long among short


def test_a_mixture_is_even_at_every_point_of_the_epoch() -> None:
    sources = [Source(np.arange(300) // 10), Source(np.zeros(50, np.int64), weight=2.0)]  # 300 and 2 x 50 an epoch
    order = ShardBatchSampler(sources, 40, shuffle=True)
    for step in range(len(order)):
        counts = np.bincount(order.source_of(order.batches().together(step)))
        assert counts.tolist() == [30, 10]


@pytest.mark.parametrize(("ranks", "shards"), [(4, 1), (3, 2)])
def test_more_ranks_than_shards_share_them(ranks: int, shards: int) -> None:
    shard_of_sample = np.sort(np.arange(24) % shards)
    shares = [
        ShardBatchSampler([Source(shard_of_sample)], 2, True, rank=rank, ranks=ranks).batches() for rank in range(ranks)
    ]
    assert sorted(index for share in shares for batch in share for index in batch) == list(range(24))
