import hashlib
import io
import json
import tarfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.jersey import Jersey
from datamodules.jersey import writing as jersey_writing
from datamodules.jersey.questions import QUESTIONS
from datamodules.jersey.writing import VERSION, JerseySettings, cached, image
from lit_avg.utils.errors import UserError

SMALL = JerseySettings(train=12, val=3, test=4, seed=0)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_same_settings_give_the_same_bytes(tmp_path: Path) -> None:
    assert contents(cached(SMALL, tmp_path / "a")) == contents(cached(SMALL, tmp_path / "b"))


def test_another_seed_is_another_data_set_beside_the_first(tmp_path: Path) -> None:
    other = JerseySettings(train=12, val=3, test=4, seed=1)
    first, second = cached(SMALL, tmp_path), cached(other, tmp_path)
    assert first != second
    assert contents(first / "val")["shard-000000.tar"] != contents(second / "val")["shard-000000.tar"]


def test_no_image_is_in_two_splits(tmp_path: Path) -> None:
    folder = cached(SMALL, tmp_path)
    images: list[bytes] = []
    for shard in folder.rglob("*.tar"):
        with tarfile.open(shard) as tar:
            files = [tar.extractfile(member) for member in tar if member.name.endswith(".png")]
            images += [file.read() for file in files if file is not None]
    assert len(images) == 12 + 3 + 4
    assert len(set(images)) == len(images)


def test_streams_that_overlap_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    always_the_first = jersey_writing.image(SMALL, 0, 0)
    monkeypatch.setattr(jersey_writing, "image", lambda *_: always_the_first)
    with pytest.raises(RuntimeError, match="same image twice"):
        cached(SMALL, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_may_build_the_same_data_set_at_once(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        first, second = processes.map(cached, [SMALL, SMALL], [tmp_path, tmp_path])
    assert first == second
    assert [path.name for path in tmp_path.iterdir()] == [first.name]
    assert json.loads((first / "train" / "manifest.json").read_text())["samples"] == 12


def test_a_split_without_images_is_refused() -> None:
    with pytest.raises(UserError, match="images_val must be at least 1, but is 0"):
        JerseySettings(train=1, val=0, test=1, seed=0)


def test_a_batch_asks_all_questions_about_images_in_two_tiles_and_a_global_view(tmp_path: Path) -> None:
    data = Jersey(batch_size=6, images_train=12, images_val=3, images_test=4, cache_dir=str(tmp_path))
    data.prepare_data()
    batch = next(iter(data.train_dataloader()))
    assert batch.kinds == list(QUESTIONS) * 6
    assert batch.pixel_values.shape == (6 * 3, 64, 64, 3)
    assert set(batch.tile_grids) <= {(1, 2), (2, 1)}
    for question, kind in enumerate(batch.kinds):
        here = batch.question == question
        assert data.decode(batch.input_ids[here & batch.instruction]) == QUESTIONS[kind]
        assert data.decode(batch.labels[here & (batch.labels != -100)]) == batch.answers[question]


def test_what_is_drawn_belongs_to_the_version() -> None:
    drawn = hashlib.sha256()
    for split in range(3):
        for number in range(20):
            png, said = image(JerseySettings(1, 1, 1, 0), split, number)
            drawn.update(np.asarray(Image.open(io.BytesIO(png))).tobytes() + said)
    # another hash is another data set: give it the next VERSION, or caches will hold the old one
    assert (VERSION, drawn.hexdigest()[:16]) == (3, "94f4c2ec320db353")
