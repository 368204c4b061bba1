"""Training on some kinds of questions and images, and testing on others."""

from pathlib import Path

import pytest

from datamodules.jersey import Jersey
from datamodules.loading.loader import ResumableLoader
from lit_avg.utils.errors import UserError


def jersey(tmp_path: Path, **changes: object) -> Jersey:
    return Jersey(
        **{"batch_size": 2, "images_train": 12, "images_val": 8, "images_test": 8} | changes,
        cache_dir=str(tmp_path),
    )  # type: ignore[arg-type]


def test_some_kinds_of_questions_are_learnt_and_all_are_tested(tmp_path: Path) -> None:
    data = jersey(tmp_path, learnt_kinds=["number", "crowd"])
    validation = data.val_dataloader()
    assert isinstance(validation, ResumableLoader)
    for batch in (*data.train_dataloader(), *validation):
        assert batch.kinds == ["number", "crowd"] * 2
        assert [key.partition("/")[2] for key in batch.keys] == ["0", "4"] * 2  # their names stay
    assert {kind for batch in data.test_dataloader() for kind in batch.kinds} == set(data.question_kinds)
    assert data.data_digest("train") != jersey(tmp_path).data_digest("train")
    assert data.data_digest("test") == jersey(tmp_path).data_digest("test")


def test_wide_images_are_learnt_and_tall_ones_tested(tmp_path: Path) -> None:
    data = jersey(tmp_path, learnt_images="wide", tested_images="tall")
    sizes = {
        split: [tuple(size) for batch in stream for size in batch.image_sizes.tolist()]
        for split, stream in (("train", data.train_dataloader()), ("test", data.test_dataloader()))
    }
    assert all(width > height for height, width in sizes["train"])
    assert all(height > width for height, width in sizes["test"])
    whole = jersey(tmp_path)
    assert data.sample_count("train") + jersey(tmp_path, learnt_images="tall").sample_count(
        "train"
    ) == whole.sample_count("train")


def test_a_kind_that_is_not_asked_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="but no weather"):
        jersey(tmp_path, learnt_kinds=["weather"])
