"""A callback of `base.yaml` is named again to have other arguments, not to be had twice."""

from pathlib import Path

import yaml

from lit_avg.commands.offline import BuildingCLI
from tests.tiny_run import write_stage


def callbacks_of(tmp_path: Path, *added: object) -> list[tuple[str, dict[str, object]]]:
    path = tmp_path / "added.yaml"
    path.write_text(yaml.safe_dump({"trainer": {"callbacks+": list(added)}}))
    cli = BuildingCLI(["fit", "--config", write_stage(tmp_path, "Pretrain"), "--config", str(path)])
    config = yaml.safe_load(cli.config_text())["trainer"]["callbacks"]
    return [(callback["class_path"], callback.get("init_args") or {}) for callback in config]


def test_one_that_is_named_again_takes_the_first_ones_place_and_others_are_added(tmp_path: Path) -> None:
    keys = {"class_path": "tests.two_ranks.Keys", "init_args": {"folder": "a"}}
    rarely = {"class_path": "callbacks.LastCheckpoint", "init_args": {"every_minutes": 30.0}}
    before, after = callbacks_of(tmp_path), callbacks_of(tmp_path, keys, rarely, keys)
    assert [path for path, _ in after] == [path for path, _ in before] + ["tests.two_ranks.Keys"] * 2
    (saving,) = [arguments for path, arguments in after if path == "callbacks.LastCheckpoint"]
    assert saving["every_minutes"] == 30.0
