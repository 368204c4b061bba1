"""Texts are texts: the parser opens none of them where its type allows one."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from datamodules.llava_shards import LLaVAShards
from lit_avg.commands.offline import BuildingCLI
from tests.datamodules.serving import Server, serving
from tests.datamodules.tars import foreign_tar
from tests.tiny_run import write_stage


def built(tmp_path: Path, train: object, *options: str, **more: object) -> LLaVAShards:
    data = {
        "class_path": "datamodules.LLaVAShards",
        "init_args": {"train": train, "tokenizer": "jersey", "batch_size": 2, "tile_size": 16, "grid_pinpoints": None}
        | {"system_prompt": None, "shard_cache": str(tmp_path / "cache"), **more},
    }
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"data": data}))
    stage = write_stage(tmp_path, "InstructionTuning")
    module = BuildingCLI(["fit", "--config", stage, "--config", str(tmp_path / "data.yaml"), *options]).datamodule
    assert isinstance(module, LLaVAShards)
    return module


def test_a_shard_on_a_server_is_asked_for_when_it_is_read_and_once(tmp_path: Path) -> None:
    foreign_tar(tmp_path / "shards" / "000000.tar", "red")
    with serving(Server(tmp_path / "shards", versions="none")) as server:
        url = f"{server.url}/000000.tar"
        data = built(tmp_path, url, val=url, test=url)
        assert (server.asked, data.sources("train")[0].shards) == ([], url)
        for stream in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
            assert not isinstance(stream, list)
            assert len(list(stream)) == 2
        assert data.manifest_hash
        assert data.data_digest("test")
    assert server.sent == ["000000.tar"]
    assert [name for name, _ in server.asked] == ["manifest.json", "000000.tar"]


@pytest.mark.parametrize("name", ["x.tar", "many.txt", "list"])
@pytest.mark.parametrize("by_option", [False, True])
def test_a_path_that_could_be_a_list_of_data_sets_is_a_path(name: str, by_option: bool, tmp_path: Path) -> None:
    (tmp_path / name).write_text("- {shards: other}\n- {shards: another}\n")
    path = str(tmp_path / name)
    options = ["--data.init_args.train", path] if by_option else []
    data = built(tmp_path, "elsewhere" if by_option else path, *options)
    assert [source.shards for source in data.sources("train")] == [path]


def test_a_list_of_data_sets_is_still_read(tmp_path: Path) -> None:
    train: list[Any] = [{"shards": "a/x", "weight": 2.0}, {"shards": "b/y", "name": "z"}]
    found = [(source.shards, source.weight, source.called) for source in built(tmp_path, train).sources("train")]
    assert found == [("a/x", 2.0, "x"), ("b/y", 1.0, "z")]
