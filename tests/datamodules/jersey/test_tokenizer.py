from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from datamodules.jersey.make_tokenizer import FOLDER, make_tokenizer, words

TOKENIZER = AutoTokenizer.from_pretrained(FOLDER)


def test_the_script_reproduces_the_shipped_files(tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    for made in tmp_path.iterdir():
        assert made.read_text().strip() == (FOLDER / made.name).read_text().strip()


@given(st.text())
def test_any_text_comes_back_unchanged(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text, add_special_tokens=False, split_special_tokens=True)) == text


def test_every_word_is_one_token_and_every_digit_stands_alone() -> None:
    for word in words():
        assert len(TOKENIZER.encode(word)) == 1
        assert len(TOKENIZER.encode(f" {word}")) == 1
    assert TOKENIZER.tokenize("number 4711") == ["number", "Ġ4", "7", "1", "1"]
    assert len(TOKENIZER) <= 512


@pytest.mark.parametrize("answer", ["47", "top left"])
def test_the_template_marks_the_answer_and_its_end(answer: str) -> None:
    turns = [{"role": "user", "content": "<image>\nWhere?"}, {"role": "assistant", "content": answer}]
    rendered = TOKENIZER.apply_chat_template(turns, return_assistant_tokens_mask=True, return_dict=True)
    marks = zip(rendered["input_ids"], rendered["assistant_masks"], strict=True)
    assert TOKENIZER.decode([token for token, marked in marks if marked]).strip() == f"{answer}</s>"
    assert TOKENIZER.decode(rendered["input_ids"]) == f"<s>USER: <image>\nWhere? ASSISTANT: {answer}</s>"
