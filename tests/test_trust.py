"""What docs/trust.md says of data: nothing in them is run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from datamodules.encoding.tokenizer import load_tokenizer
from lit_avg.training.handover import read_checkpoint
from lit_avg.utils.errors import UserError
from lit_avg.utils.weight_io import read_file
from lit_avg.utils.yaml_reader import read_yaml


class Touches:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(("read", "name"), [(read_checkpoint, "last.ckpt"), (read_file, "pytorch_model.bin")])
def test_a_pickle_that_asks_for_more_than_tensors_is_refused(
    read: Callable[[Path], object], name: str, tmp_path: Path
) -> None:
    torch.save({"state_dict": {}, "more": Touches(tmp_path / "run")}, tmp_path / name)
    with pytest.raises(UserError, match=name):
        read(tmp_path / name)
    assert not (tmp_path / "run").exists()


def test_a_tag_in_yaml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"a: !!python/object/apply:os.mkdir [{tmp_path / 'run'}]\n")
    with pytest.raises(UserError, match=r"config\.yaml"):
        read_yaml(tmp_path / "config.yaml")
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_with_code_of_its_own_is_refused_without_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(own))
    (tmp_path / "own.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'run')!r})\nclass Own: pass\n")
    monkeypatch.setattr("builtins.input", lambda _: "yes")  # what transformers would ask, in a terminal
    with pytest.raises(UserError, match=r"tokenizer: .* cannot be loaded: .*code"):
        load_tokenizer(str(tmp_path))
    assert not (tmp_path / "run").exists()
