"""`null` for an argument that takes none is refused when the config is read, whichever class it is of."""

from pathlib import Path

import pytest
from jsonargparse import Namespace

from lit_avg.cli import main
from lit_avg.config.null_values import check_no_null
from lit_avg.utils.errors import UserError
from tests.tiny_run import write_stage

SHARDS, JERSEY = "datamodules.llava_shards.LLaVAShards", "datamodules.jersey.Jersey"


def section(class_path: str, **arguments: object) -> Namespace:
    return Namespace(class_path=class_path, init_args=Namespace(**arguments))


@pytest.mark.parametrize(
    ("class_path", "name", "default"),
    [
        (SHARDS, "val_share", "0.0"),
        (SHARDS, "max_length", "4096"),
        (SHARDS, "workers", "0"),
        (SHARDS, "cache_gb", "100.0"),
        (SHARDS, "image_std", "(0.26862954, 0.26130258, 0.27577711)"),
        (SHARDS, "group_by_length", "False"),
        (JERSEY, "batch_size", "24"),
        ("callbacks.RunProgress", "lines", "10"),
    ],
)
def test_null_for_an_argument_with_another_default_is_refused(class_path: str, name: str, default: str) -> None:
    with pytest.raises(UserError) as refusal:
        check_no_null(Namespace(inner=[section(class_path, **{name: None})]), "data")
    assert (
        str(refusal.value)
        == f"data.inner.0.{name} is null, which it cannot be; leave it out for its default ({default})"
    )


def test_null_is_taken_where_it_means_something_and_a_needed_argument_is_another_matter() -> None:
    meant = section(SHARDS, val=None, test=None, system_prompt=None, eval_batch_size=None, shard_cache=None, train=None)
    check_no_null(meant, "data")
    check_no_null(section(JERSEY, cache_dir=None), "data")


def test_null_is_told_by_the_command_before_anything_is_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    callback = "{class_path: callbacks.RunProgress, init_args: {lines: null}}"
    assert main(["fit", "--config", write_stage(tmp_path, "Pretrain"), "--trainer.callbacks+", callback]) == 2
    assert ".lines is null, which it cannot be; leave it out for its default (10)" in capsys.readouterr().err
