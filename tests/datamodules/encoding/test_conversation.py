from pathlib import Path
from typing import cast

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from datamodules.encoding.conversation import ConversationRenderer, NoRoomError, read_template
from datamodules.encoding.tokenizer import load_tokenizer
from datamodules.shards.sample import Turn
from lit_avg.batch import IMAGE_PLACEHOLDER
from lit_avg.inputs.chat_encoding import TokenizedConversation
from lit_avg.utils.errors import UserError

ONE_ROUND = (Turn("human", "<image>\nWhich number?"), Turn("gpt", "42"))
TWO_ROUNDS = (*ONE_ROUND, Turn("human", "Why is it 42?"), Turn("gpt", "It was drawn — by chance."))


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return load_tokenizer("jersey")


@pytest.fixture
def renderer(tokenizer: PreTrainedTokenizerFast) -> ConversationRenderer:
    return ConversationRenderer(tokenizer, system_prompt=None)


def text_of(renderer: ConversationRenderer, rendering: TokenizedConversation, mask: torch.Tensor) -> str:
    return cast(str, renderer.tokenizer.decode(rendering.input_ids[mask & (rendering.input_ids >= 0)].tolist()))


def test_a_round_reads_as_vicuna_writes_it(renderer: ConversationRenderer) -> None:
    rendering = renderer(ONE_ROUND, has_image=True)
    everything = torch.ones_like(rendering.answer)
    assert text_of(renderer, rendering, everything) == "<s>USER: \nWhich number? ASSISTANT: 42</s>"
    assert rendering.prefix == rendering.input_ids.tolist().index(IMAGE_PLACEHOLDER) + 1


def test_answers_are_answer_tokens_and_end_with_the_end_token(renderer: ConversationRenderer) -> None:
    rendering = renderer(TWO_ROUNDS, has_image=True)
    assert text_of(renderer, rendering, rendering.answer) == " 42</s> It was drawn — by chance.</s>"


def test_instruction_tokens_are_the_users_words_alone(renderer: ConversationRenderer) -> None:
    rendering = renderer(TWO_ROUNDS, has_image=True)
    assert text_of(renderer, rendering, rendering.instruction) == "Which number? Why is it 42?"


def test_words_of_the_user_in_the_system_prompt_are_not_instruction(tokenizer: PreTrainedTokenizerFast) -> None:
    renderer = ConversationRenderer(tokenizer, system_prompt="Which number? That is asked often.")
    rendering = renderer(ONE_ROUND, has_image=True)
    assert text_of(renderer, rendering, rendering.instruction).strip() == "Which number?"
    assert rendering.instruction.nonzero()[0] > rendering.prefix


def test_tokens_and_answers_are_those_of_the_tokenizers_own_chat_template(renderer: ConversationRenderer) -> None:
    messages = [
        {"role": {"human": "user", "gpt": "assistant"}[turn.speaker], "content": turn.text} for turn in TWO_ROUNDS
    ]
    theirs = renderer.tokenizer.apply_chat_template(
        messages, chat_template=renderer.template, return_assistant_tokens_mask=True, return_dict=True
    )
    ours = renderer(TWO_ROUNDS, has_image=True)
    shown = ours.input_ids.where(ours.input_ids != IMAGE_PLACEHOLDER, renderer.image_id)
    assert shown.tolist() == theirs["input_ids"]
    assert ours.answer.long().tolist() == theirs["assistant_masks"]


def test_the_image_goes_first_wherever_it_was_marked(renderer: ConversationRenderer) -> None:
    last = (Turn("human", "Which number?\n<image>"), Turn("gpt", "42"))
    assert torch.equal(renderer(last, True).input_ids, renderer(ONE_ROUND, True).input_ids)


def test_a_conversations_own_system_turn_replaces_the_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    renderer = ConversationRenderer(tokenizer, system_prompt="Be brief.")
    default = tokenizer.decode(renderer(ONE_ROUND, False).input_ids)
    own = tokenizer.decode(renderer((Turn("system", "Be long."), *ONE_ROUND), False).input_ids)
    assert ("Be brief." in default, "Be brief." in own, "Be long." in own) == (True, False, True)


def test_plain_captions_drop_the_question(tokenizer: PreTrainedTokenizerFast) -> None:
    renderer = ConversationRenderer(tokenizer, template="plain", system_prompt=None)
    rendering = renderer(ONE_ROUND, has_image=True)
    assert text_of(renderer, rendering, torch.ones_like(rendering.answer)) == "<s>42</s>"
    assert text_of(renderer, rendering, rendering.answer) == "42</s>"
    assert not rendering.instruction.any()


def test_a_long_dialogue_ends_with_the_last_answer_that_fits(renderer: ConversationRenderer) -> None:
    whole, first = renderer(TWO_ROUNDS, True), renderer(ONE_ROUND, True)
    for room in (len(first.input_ids), len(whole.input_ids) - 1):
        short = ConversationRenderer(renderer.tokenizer, system_prompt=None, max_length=room)
        assert torch.equal(short(TWO_ROUNDS, True).input_ids, first.input_ids)
    exact = ConversationRenderer(renderer.tokenizer, system_prompt=None, max_length=len(whole.input_ids))
    assert torch.equal(exact(TWO_ROUNDS, True).input_ids, whole.input_ids)


def test_no_answer_is_cut_in_half(renderer: ConversationRenderer) -> None:
    room = len(renderer(ONE_ROUND, True).input_ids) - 1
    short = ConversationRenderer(renderer.tokenizer, system_prompt=None, max_length=room)
    with pytest.raises(NoRoomError, match=f"ends at token {room + 1}, and max_length is {room}"):
        short(TWO_ROUNDS, True)


def test_a_tokenizer_without_an_image_token_is_given_one() -> None:
    words = Tokenizer(models.WordLevel({"?": 0, "number": 1, "42": 2, "</s>": 3}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    without = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>")
    rendering = ConversationRenderer(without, system_prompt=None)(ONE_ROUND, has_image=True)
    assert rendering.input_ids.tolist().count(IMAGE_PLACEHOLDER) == 1
    assert rendering.input_ids[rendering.answer].tolist() == [2, 3]  # 42, end


def test_a_template_that_marks_no_answers_is_refused(tmp_path: Path) -> None:
    template = tmp_path / "unmarked.jinja"
    template.write_text("{{ messages[0]['content'] }}")
    with pytest.raises(UserError, match="does not mark its answers"):
        read_template(str(template))


def test_an_unknown_template_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="none called vicunna; give llama3, plain, qwen2, vicuna"):
        read_template("vicunna")
