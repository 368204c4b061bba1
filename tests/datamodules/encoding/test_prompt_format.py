"""A checkpoint is not evaluated with other words than it was trained with."""

import json
import re
from pathlib import Path

import pytest

from datamodules import CC595K, ALLaVA, InstructionMix, LLaVAShards
from datamodules.encoding.tokenizer import load_tokenizer
from lit_avg.inputs import IMAGE_MARK
from lit_avg.llava_next.generation import check_end_token
from lit_avg.utils.errors import UserError


def data(template: str = "vicuna", system_prompt: str | None = None) -> LLaVAShards:
    return LLaVAShards(
        "nowhere",
        tokenizer="jersey",
        batch_size=1,
        tile_size=16,
        grid_pinpoints=None,
        template=template,
        system_prompt=system_prompt,
    )


def test_the_same_words_are_accepted() -> None:
    data().load_state_dict(data().state_dict())


def test_another_template_is_refused_with_both_named() -> None:
    with pytest.raises(UserError, match="template: 'plain' -> 'vicuna'"):
        data("vicuna").load_state_dict(data("plain").state_dict())


def test_another_system_prompt_is_refused() -> None:
    with pytest.raises(UserError, match=re.escape("system_prompt: 'Be brief.' -> ''")):
        data().load_state_dict(data(system_prompt="Be brief.").state_dict())


def test_a_template_of_another_name_with_the_same_words_is_accepted(tmp_path: Path) -> None:
    copy = tmp_path / "copy.jinja"
    copy.write_text((Path(__file__).parents[3] / "datamodules" / "encoding" / "templates" / "vicuna.jinja").read_text())
    data(str(copy)).load_state_dict(data().state_dict())


def test_a_checkpoint_from_before_this_was_kept_is_accepted() -> None:
    data().load_state_dict({})


def test_a_model_that_does_not_stop_where_answers_end_is_refused() -> None:
    check_end_token(data().end_token, [0, data().end_token])
    with pytest.raises(UserError, match=rf"ends answers with token {data().end_token}, but the model stops at \[0\]"):
        check_end_token(data().end_token, [0])


def test_captions_are_taught_without_their_questions_and_instructions_with_them() -> None:
    modules = CC595K("nowhere"), ALLaVA("nowhere"), InstructionMix("nowhere")
    assert [module.template for module in modules] == ["plain", "vicuna", "vicuna"]
    assert [module.batch_size for module in modules] == [32, 4, 4]


def test_tokens_have_one_name_whatever_was_asked_of_the_data_first(tmp_path: Path) -> None:
    load_tokenizer("jersey").save_pretrained(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != IMAGE_MARK]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "bos_token": "<s>"}))
    early, late = (
        LLaVAShards("nowhere", tokenizer=str(tmp_path), batch_size=1, tile_size=16, grid_pinpoints=None)
        for _ in range(2)
    )
    assert late.end_token > 0, "asking for it has `<image>` added to the tokenizer"
    assert early.encoding_settings == late.encoding_settings
