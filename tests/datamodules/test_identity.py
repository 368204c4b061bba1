"""Data is known by its content, wherever it lies: what is replaced is noticed, and a copy is the same data."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import lightning as L
import pytest
from lightning.pytorch.trainer.states import TrainerFn

from datamodules.jersey import writing
from datamodules.jersey.datamodule import Jersey
from datamodules.llava_shards import LLaVAShards
from datamodules.loading.mixture import WeightedShards
from lit_avg.utils.errors import UserError
from tests.datamodules.serving import Server, serving
from tests.datamodules.tars import foreign_tar
from tests.drawn import drawn_shards

Place = Literal["tar", "range", "strong", "weak", "dated", "none", "command", "fsspec"]
PLACES: tuple[Place, ...] = ("tar", "range", "strong", "weak", "dated", "none", "command", "fsspec")
"""Servers by what they name versions of a file by."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIT_AVG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@contextmanager
def served(folder: Path, place: Place) -> Iterator[str]:
    """The location of a tar file, or of a range of one, in a folder."""
    if place in ("strong", "weak", "dated", "none"):
        with serving(Server(folder, versions=place)) as server:
            yield f"{server.url}/000000.tar"
        return
    path = folder / "000000.tar"
    yield {"command": f"pipe:cat {path}", "fsspec": f"file://{path}", "range": f"{folder}/{{000000..000000}}.tar"}.get(
        place, str(path)
    )


def data(train: str | list[WeightedShards], **more: object) -> LLaVAShards:
    return LLaVAShards(
        train, tokenizer="jersey", batch_size=2, tile_size=16, grid_pinpoints=None, system_prompt=None, **more
    )


def replace_unseen(path: Path, other: Path) -> None:
    """Put another file in its place, of the same size and times."""
    found = path.stat()
    assert other.stat().st_size == found.st_size
    shutil.copyfile(other, path)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def names_of(module: LLaVAShards) -> tuple[object, ...]:
    """What stores, results, resumed runs and studies know the data by."""
    return (
        module.data_digest("train"),
        module.manifest_hash,
        module.train_dataloader().identity["data"],
        sorted(module.identities().values()),
    )


@pytest.mark.parametrize("place", PLACES)
def test_another_content_of_the_same_size_and_time_is_other_data_and_a_copy_is_the_same(
    place: Place, tmp_path: Path
) -> None:
    for name, answer in (("here", "red"), ("other", "tan"), ("copy", "red")):
        foreign_tar(tmp_path / name / "000000.tar", answer)
    with served(tmp_path / "here", place) as location:
        stream = data(location).train_dataloader()
        first = names_of(data(location))
        assert names_of(data(location)) == first
        with served(tmp_path / "copy", place) as copied:
            assert names_of(data(copied)) == first
            data(copied).train_dataloader().load_state_dict(stream.state_dict())
        replace_unseen(tmp_path / "here" / "000000.tar", tmp_path / "other" / "000000.tar")
        changed = names_of(data(location))
        assert all(one != other for one, other in zip(first, changed, strict=True))
        with pytest.raises(UserError, match="cannot go on where the checkpoint stopped: data was"):
            data(location).train_dataloader().load_state_dict(stream.state_dict())
        (answers,) = {answer for batch in data(location).train_dataloader() for answer in batch.answers}
        assert answers == "tan"


@pytest.mark.parametrize("as_range", [False, True])
def test_a_shard_that_was_changed_beneath_its_manifest_is_refused_and_a_copied_folder_is_not(
    as_range: bool, tmp_path: Path
) -> None:
    folder = drawn_shards(tmp_path, 12)
    last = len(list(folder.glob("*.tar"))) - 1
    location = f"{folder}/shard-{{000000..{last:06d}}}.tar" if as_range else str(folder)
    first = data(location).data_digest("train")
    assert first == data(str(folder)).data_digest("train")  # a range over all of a folder is the folder
    shutil.copytree(folder, tmp_path / "copy")  # every shard of it is newer than its manifest
    assert data(str(tmp_path / "copy")).data_digest("train") == first
    path = folder / "shard-000000.tar"
    other = tmp_path / "other.tar"
    changed = bytearray(path.read_bytes())
    changed[600] ^= 1
    other.write_bytes(changed)
    replace_unseen(path, other)
    with pytest.raises(UserError, match=r"shard .*shard-000000.tar is not the one that .*manifest.json describes"):
        data(location).data_digest("train")


def test_a_shard_that_was_changed_is_refused_though_the_rights_of_the_whole_folder_were_set_since(
    tmp_path: Path,
) -> None:
    folder = drawn_shards(tmp_path / "drawn", 6)
    shard, manifest = folder / "shard-000000.tar", folder / "manifest.json"
    data(str(folder)).train_dataloader()
    content = bytearray(shard.read_bytes())
    content[600] ^= 1
    shard.write_bytes(content)
    for path in (shard, manifest):  # as `chmod -R` does: the change of rights is what both have as their last one
        path.chmod(0o640)
    with pytest.raises(UserError, match=r"shard .*shard-000000.tar is not the one that .*manifest.json describes"):
        data(str(folder)).train_dataloader()


def test_a_part_of_a_folder_is_other_data_than_the_folder(tmp_path: Path) -> None:
    folder = drawn_shards(tmp_path, 12)
    whole, part = data(str(folder)), data(f"{folder}/shard-{{000000..000001}}.tar")
    assert whole.data_digest("train") != part.data_digest("train")
    assert part.identities() == whole.identities() != {}  # both hang on the one manifest


def test_tar_files_of_the_same_name_have_samples_of_their_own(tmp_path: Path) -> None:
    for name, answer in (("x", "red"), ("y", "tan"), ("z", "sky")):
        foreign_tar(tmp_path / name / "000000.tar", answer)
    location = f"{tmp_path}/{{x,y,z}}/000000.tar"
    batches = list(data(str(tmp_path / "x" / "000000.tar"), test=location).test_dataloader())
    keys = [key for batch in batches for key in batch.keys]
    assert keys == [f"{name}/000000.tar/./some.folder/{number}" for name in "xyz" for number in range(4)]
    alone = data(str(tmp_path / "x" / "000000.tar")).train_dataloader()
    assert {key for batch in alone for key in batch.keys} == {f"000000.tar/./some.folder/{n}" for n in range(4)}
    with pytest.raises(UserError, match=r"names .*x/000000.tar twice"):
        data(f"{tmp_path}/{{x,x}}/000000.tar").data_digest("train")


def change_order(one: str, other: str) -> list[WeightedShards]:
    return [WeightedShards(other, name="b"), WeightedShards(one, name="a")]


def change_names(one: str, other: str) -> list[WeightedShards]:
    return [WeightedShards(one, name="b"), WeightedShards(other, name="a")]


def change_weights(one: str, other: str) -> list[WeightedShards]:
    return [WeightedShards(one, 2.0, "a"), WeightedShards(other, name="b")]


@pytest.mark.parametrize("change", [change_order, change_names, change_weights])
def test_a_mixture_in_another_order_by_other_names_or_weights_does_not_go_on(
    change: Callable[[str, str], list[WeightedShards]], tmp_path: Path
) -> None:
    places = [str(tmp_path / name / "000000.tar") for name in "ab"]
    for place, answer in zip(places, ("red", "tan"), strict=True):
        foreign_tar(Path(place), answer)
    stream = data([WeightedShards(places[0], name="a"), WeightedShards(places[1], name="b")]).train_dataloader()
    with pytest.raises(UserError, match="cannot go on where the checkpoint stopped"):
        data(change(*places)).train_dataloader().load_state_dict(stream.state_dict())


@pytest.mark.parametrize("more", [{"max_length": 77}, {"independent_turns": True}, {"val_share": 0.3}])
def test_going_on_with_the_same_data_shown_in_another_way_is_refused(more: dict[str, object], tmp_path: Path) -> None:
    folder = str(drawn_shards(tmp_path, 23))
    stream = data(folder).train_dataloader()
    with pytest.raises(UserError, match="cannot go on where the checkpoint stopped"):
        data(folder, **more).train_dataloader().load_state_dict(stream.state_dict())


def test_a_run_does_not_go_on_with_other_validation_samples_but_may_be_judged_on_them(tmp_path: Path) -> None:
    for name, answer in (("before", "red"), ("copy", "red"), ("other", "tan")):
        foreign_tar(tmp_path / name / "000000.tar", answer)

    def module(name: str, fn: TrainerFn, checkpoint: dict[str, Any] | None = None) -> LLaVAShards:
        made = data(str(tmp_path / "before" / "000000.tar"), val=str(tmp_path / name / "000000.tar"))
        made.trainer = L.Trainer(logger=False, accelerator="cpu", default_root_dir=tmp_path)
        made.trainer.state.fn = fn
        if checkpoint is not None:
            made.load_state_dict(checkpoint)
        made.val_dataloader()
        return made

    checkpoint = module("before", TrainerFn.FITTING).state_dict()
    module("copy", TrainerFn.FITTING, checkpoint)
    module("other", TrainerFn.VALIDATING, checkpoint)
    with pytest.raises(UserError, match=r"other samples than this run was validated on .* begin anew with --overwrite"):
        module("other", TrainerFn.FITTING, checkpoint)


def test_another_share_for_validation_is_told_by_the_data_of_a_result(tmp_path: Path) -> None:
    folder = str(drawn_shards(tmp_path, 23))
    hashes = [data(folder, val_share=share).manifest_hash for share in (0.0, 0.3, 0.5)]
    assert len(set(hashes)) == 3


def test_what_jersey_draws_is_known_by_its_settings_and_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(version: int, seed: int = 0) -> Jersey:
        module = Jersey(images_train=2, images_val=1, images_test=1, image_seed=seed, cache_dir=str(tmp_path))
        module.settings = writing.JerseySettings(2, 1, 1, seed, version)
        return module

    assert drawn(3).identities() == drawn(3).identities()
    assert len({json.dumps(one.identities()) for one in (drawn(3), drawn(4), drawn(3, seed=1))}) == 3
    assert not list(tmp_path.glob("jersey-*"))  # nothing was drawn to tell so
    assert len({one.data_digest("train") for one in (drawn(3), drawn(4), drawn(3, seed=1))}) == 3


def test_a_split_without_samples_is_named_with_what_to_do(tmp_path: Path) -> None:
    module = data(str(drawn_shards(tmp_path, 12)), val_share=0.0001)
    with pytest.raises(
        UserError, match=r"the validation split has no samples: val_share 0.0001 of the 12 .* raise val_share"
    ):
        module.val_dataloader()
    with pytest.raises(UserError, match=r"the training split has no samples: val_share 0.99999 .* lower val_share"):
        data(str(tmp_path / "shards"), val_share=0.99999).train_dataloader()
