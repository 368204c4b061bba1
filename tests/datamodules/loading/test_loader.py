from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from datamodules.llava_shards import LLaVAShards
from datamodules.loading.batch_sampler import ShardBatchSampler, Source
from datamodules.loading.loader import ResumableLoader
from datamodules.shards.reader import held_out
from lit_avg.batch import Batch
from lit_avg.utils.errors import UserError
from tests.drawn import drawn_shards

SAMPLES = 23


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn_shards(tmp_path_factory.mktemp("drawn"), SAMPLES)


def data(shards: Path, workers: int = 0, max_length: int = 4096, val_share: float = 0.0, seed: int = 0) -> LLaVAShards:
    return LLaVAShards(
        train=str(shards),
        tokenizer="jersey",
        batch_size=3,
        tile_size=16,
        grid_pinpoints=None,
        test=str(shards),
        val_share=val_share,
        system_prompt=None,
        max_length=max_length,
        workers=workers,
        seed=seed,
    )


def keys_of(stream: ResumableLoader) -> list[list[str]]:
    return [batch.keys for batch in stream]


class KeyRecorder(L.LightningModule):
    """Learns nothing, and remembers what it was shown; stops as if killed at a given step."""

    def __init__(self, killed_at: int = -1) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.killed_at = killed_at
        self.seen: list[list[str]] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.global_step == self.killed_at:
            raise KeyboardInterrupt
        self.seen.append(batch.keys)
        return self.weight * 1.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(folder: Path, module: KeyRecorder, shards: Path, workers: int, resume: bool = False, limit: int = 7) -> None:
    trainer = L.Trainer(
        default_root_dir=folder,
        max_steps=19,
        limit_train_batches=limit,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, "each-step", every_n_train_steps=1, enable_version_counter=False)],
    )
    trainer.fit(module, data(shards, workers), ckpt_path=folder / "each-step.ckpt" if resume else None)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("killed_at", "limit"), [(4, 7), (7, 7), (10, 7), (5, 5), (8, 5)])
def test_a_killed_run_goes_on_with_the_samples_it_had_not_seen(
    tmp_path: Path, shards: Path, workers: int, killed_at: int, limit: int
) -> None:
    whole, killed, resumed = KeyRecorder(), KeyRecorder(killed_at), KeyRecorder()
    train(tmp_path / "whole", whole, shards, workers, limit=limit)
    with pytest.raises(SystemExit):
        train(tmp_path / "killed", killed, shards, workers, limit=limit)
    train(tmp_path / "killed", resumed, shards, workers, resume=True, limit=limit)
    assert killed.seen == whole.seen[:killed_at]
    assert killed.seen + resumed.seen == whole.seen


def test_every_epoch_has_an_order_of_its_own_that_the_seed_decides(shards: Path) -> None:
    def epochs(seed: int) -> list[list[list[str]]]:
        stream = data(shards, seed=seed).train_dataloader()
        orders: list[list[list[str]]] = []
        for epoch in range(2):
            stream.sampler.set_epoch(epoch)
            orders.append(keys_of(stream))
        return orders

    first, second = epochs(0)
    assert first != second
    assert epochs(0) == [first, second]
    assert epochs(1)[0] != first


def test_the_number_of_workers_changes_nothing(shards: Path) -> None:
    assert keys_of(data(shards, workers=2).train_dataloader()) == keys_of(data(shards).train_dataloader())


def test_evaluation_sees_every_sample_once_and_in_order(shards: Path) -> None:
    stream = data(shards).test_dataloader()
    batches = keys_of(stream)
    assert [key for keys in batches for key in keys] == [f"{number:09d}" for number in range(SAMPLES)]
    assert len(batches) == len(stream) == 8  # 23 samples by 3


@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 4), st.booleans())
def test_ranks_share_the_samples_in_equally_many_batches(samples: int, size: int, ranks: int, shuffle: bool) -> None:
    shard_of_sample = np.arange(samples) // 7
    if shuffle and samples < size * ranks:
        with pytest.raises(UserError, match="too few"):
            ShardBatchSampler([Source(shard_of_sample)], size, shuffle, ranks=ranks)
        return
    orders = [
        ShardBatchSampler([Source(shard_of_sample)], size, shuffle, rank=rank, ranks=ranks) for rank in range(ranks)
    ]
    shares = [list(order.batches()) for order in orders]
    assert {len(share) for share in shares} == {len(orders[0])}
    seen = [index for share in shares for batch in share for index in batch]
    if shuffle:  # whole batches, nothing twice, fewer left over than one batch on each rank
        assert all(len(batch) == size for share in shares for batch in share)
        assert len(set(seen)) == len(seen) > samples - size * ranks
    else:  # everything, and at most one sample again on each rank, by a number that says so
        assert (
            {index % samples for index in seen} == set(range(samples)) == {index for index in seen if index < samples}
        )
        assert len(set(seen)) == len(seen) < samples + ranks


def test_samples_are_mixed_a_few_shards_at_a_time() -> None:
    shard_of_sample = np.repeat(np.arange(40), 10)
    (order,) = np.array(list(ShardBatchSampler([Source(shard_of_sample)], 400, shuffle=True).batches()))
    begin, end = shard_of_sample[order[:160]], shard_of_sample[order[160:]]
    assert len(set(begin)) == 16  # shards at once
    assert not set(begin) & set(end)
    assert (np.diff(begin) != 0).sum() > 100  # and not shard by shard


def test_going_on_with_another_batch_size_is_refused(shards: Path) -> None:
    stream, other = data(shards).train_dataloader(), data(shards).train_dataloader()
    other.sampler.batch_size = 4
    with pytest.raises(UserError, match=r"samples a step \(batch_size x ranks\) was 3 and is 4"):
        other.load_state_dict(stream.state_dict())


def test_a_held_out_share_is_never_trained_on(shards: Path) -> None:
    module = data(shards, val_share=0.3)
    trained = {key for keys in keys_of(module.train_dataloader()) for key in keys}
    validation = module.val_dataloader()
    assert isinstance(validation, ResumableLoader)
    held = {key for keys in keys_of(validation) for key in keys}
    assert held == {f"{number:09d}" for number in range(SAMPLES) if held_out(f"{number:09d}", 0.3)}
    assert held
    assert not held & trained


def test_the_manifest_hash_names_the_data(shards: Path, tmp_path: Path) -> None:
    other = drawn_shards(tmp_path, SAMPLES + 1)
    assert data(shards).manifest_hash == data(shards).manifest_hash != data(other).manifest_hash
    assert len(data(shards).manifest_hash) == 16


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_what_is_shown_again_to_fill_the_ranks_says_so(shards: Path, ranks: int) -> None:
    samples = data(shards).samples("test")
    orders = [ShardBatchSampler(samples.sources([1.0]), 3, False, rank=rank, ranks=ranks) for rank in range(ranks)]
    streams = [ResumableLoader(samples, order, data(shards).encoder, data(shards).collate) for order in orders]
    batches = [batch for stream in streams for batch in stream]
    counted = [batch.keys[question] for batch in batches for question in batch.counted]
    assert sorted(counted) == [f"{number:09d}" for number in range(SAMPLES)]
    assert sum(len(batch.keys) for batch in batches) == -(-SAMPLES // ranks) * ranks
    assert sum(stream.seen["shards"] for stream in streams) == ranks * (-(-SAMPLES // ranks) * ranks)
