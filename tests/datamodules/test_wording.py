"""A checkpoint is not evaluated with other words than it was trained with."""

import re
from pathlib import Path

import pytest

from datamodules import CC595K, ALLaVA, InstructionMix, LLaVAShards
from lit_avg.errors import UserError
from lit_avg.generation import check_end_token


def data(template: str = "vicuna", system_prompt: str | None = None) -> LLaVAShards:
    return LLaVAShards("nowhere", "jersey", 1, 16, None, template=template, system_prompt=system_prompt)


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
    copy.write_text((Path(__file__).parents[2] / "datamodules" / "templates" / "vicuna.jinja").read_text())
    data(str(copy)).load_state_dict(data().state_dict())


def test_a_checkpoint_from_before_this_was_kept_is_accepted() -> None:
    data().load_state_dict({})


def test_a_model_that_does_not_stop_where_answers_end_is_refused() -> None:
    check_end_token(data(), [0, data().end_token])
    with pytest.raises(UserError, match=rf"ends answers with token {data().end_token}, but the model stops at \[0\]"):
        check_end_token(data(), [0])


def test_captions_are_taught_without_their_questions_and_instructions_with_them() -> None:
    modules = CC595K("nowhere"), ALLaVA("nowhere"), InstructionMix("nowhere")
    assert [module.template for module in modules] == ["plain", "vicuna", "vicuna"]
    assert [module.batch_size for module in modules] == [32, 4, 4]
