from pathlib import Path

import pytest
from huggingface_hub.errors import HTTPError
from transformers import AutoTokenizer

from datamodules.encoding.tokenizer import load_tokenizer
from lit_avg.llava_next.backbone import Backbone
from lit_avg.utils import hub
from lit_avg.utils.errors import UserError
from tests.tiny import tiny_backbone


def not_reached(*_: object, **__: object) -> None:
    raise HTTPError("Name or service not known")


def nobody_asks(*_: object, **__: object) -> None:
    raise AssertionError("transformers would try for a minute")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "model_info", not_reached)


@pytest.mark.usefixtures("offline")
def test_without_a_network_a_misspelt_tokenizer_or_model_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", nobody_asks)
    told = "is no folder here, not in the hub's cache, and the hub cannot be asked"
    with pytest.raises(UserError, match=f"tokenizer: lmsys/vikuna-7b {told}"):
        load_tokenizer("lmsys/vikuna-7b")
    with pytest.raises(UserError, match=f"pretrained_parts: llm: lmsys/vikuna-7b {told}"):
        tiny_backbone().load_part("llm", "lmsys/vikuna-7b")
    with pytest.raises(UserError, match=f"pretrained: llava-hf/lava {told}"):
        Backbone(pretrained="llava-hf/lava")


@pytest.mark.parametrize("name", ["./tokenizer", "/no/where", "a/b/c", "~/models/vicuna", ""])
def test_what_cannot_be_on_the_hub_is_taken_for_a_folder_that_is_not_there(name: str) -> None:
    with pytest.raises(UserError, match="tokenizer: there is no folder"):
        load_tokenizer(name)


@pytest.mark.usefixtures("offline")
def test_what_lies_in_the_cache_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda name, file: str(tmp_path / name / file))
    hub.check_source("tokenizer", "owner/name", "tokenizer_config.json")
