"""What is marked as answers decodes to the answers, with every template and with tokenizers of every kind."""

from functools import cache
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from datamodules.encoding.conversation import ConversationRenderer, NoRoomError
from datamodules.shards.sample import Turn
from lit_avg.batch import IMAGE_PLACEHOLDER
from lit_avg.inputs.chat_encoding import TokenizedConversation
from lit_avg.utils.errors import UserError

SPECIAL = ["<s>", "</s>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>"]

END = {"vicuna": "</s>", "plain": "</s>", "llama3": "<|eot_id|>", "qwen2": "<|im_end|>"}

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]

PIECES = ["▁the", "the", "th", "▁a", "an", "in", "▁w", "er", "wh", "US", "ER"]

LLAMA_3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)

SENTENCES = ["the number on the shirt is 42", "what is in the image? a player who wins", "So So So So So"] * 3


def bpe() -> Tokenizer:
    """As Llama-2's: no words, spaces are part of the text, unknown letters in bytes."""
    letters = sorted({letter for piece in PIECES for letter in piece})
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "a"), ("a", "n"), ("i", "n"), ("▁", "w"), ("e", "r")]
    merges += [("w", "h"), ("U", "S"), ("E", "R")]
    vocabulary = {piece: number for number, piece in enumerate(["<unk>", *BYTES, *letters, *PIECES])}
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return made


def unigram() -> Tokenizer:
    """As SentencePiece's: the likeliest pieces of each word."""
    letters = sorted({letter for piece in PIECES for letter in piece})
    scores = [("<unk>", -20.0), *((byte, -15.0) for byte in BYTES)]
    scores += [(letter, -8.0) for letter in [*letters, "\n"]] + [(piece, -5.0) for piece in PIECES]
    made = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return made


def byte_level() -> Tokenizer:
    """As Llama-3's and Qwen's: merged bytes of words."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_3_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    return made


KINDS = {"BPE": bpe, "SentencePiece": unigram, "byte-level": byte_level}


def tokenizer(kind: str, special: tuple[str, ...] = tuple(SPECIAL)) -> PreTrainedTokenizerFast:
    made = PreTrainedTokenizerFast(tokenizer_object=KINDS[kind](), bos_token="<s>", eos_token="</s>")
    made.add_special_tokens({"additional_special_tokens": list(special)}, replace_extra_special_tokens=False)
    return made


@cache
def renderer(kind: str, template: str, max_length: int = 4096) -> ConversationRenderer:
    return ConversationRenderer(tokenizer(kind), template, "Be brief.", max_length)


def answers_of(made: ConversationRenderer, rendering: TokenizedConversation) -> list[str]:
    """Each run of answer tokens, decoded."""
    runs: list[list[int]] = []
    before = False
    for token, marked in zip(rendering.input_ids.tolist(), rendering.answer.tolist(), strict=True):
        if marked and not before:
            runs.append([])
        if marked:
            runs[-1].append(token)
        before = marked
    return [cast(str, made.tokenizer.decode(run, clean_up_tokenization_spaces=False)) for run in runs]


def spoken(letters: str | None = None) -> st.SearchStrategy[str]:
    """Anything that can be said, but for special tokens and SentencePiece's space."""
    characters = (
        st.characters(codec="utf-8", exclude_characters="▁<\0") if letters is None else st.sampled_from(letters)
    )
    return st.text(characters, min_size=1, max_size=12).map(str.strip).filter(bool)


TEXT = spoken() | spoken("ab ER:\n\n'42.?") | st.sampled_from(["the answer", "42", "a\n\nb", "USER: why?", "—", "…"])

ROUNDS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3)


def dialogue(rounds: list[tuple[str, str]]) -> tuple[Turn, ...]:
    return tuple(turn for asked, said in rounds for turn in (Turn("human", asked), Turn("gpt", said)))


@pytest.mark.parametrize("template", END)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(rounds=ROUNDS, pictured=st.booleans())
def test_the_marked_tokens_are_the_answers_and_their_end(
    kind: str, template: str, rounds: list[tuple[str, str]], pictured: bool
) -> None:
    made = renderer(kind, template)
    rendering = made(dialogue(rounds), pictured)
    space = " " if template == "vicuna" and kind == "byte-level" else ""  # the others' decoders drop the first space
    if template == "plain":  # nothing stands between its answers but their ends
        assert "".join(answers_of(made, rendering)).replace(" ", "") == "".join(
            said + END[template] for _, said in rounds
        ).replace(" ", "")
    else:
        assert answers_of(made, rendering) == [space + said + END[template] for _, said in rounds]


@pytest.mark.parametrize("template", END)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(asked=TEXT, said=TEXT)
def test_a_prompt_has_the_tokens_that_training_shows_before_the_answer(
    kind: str, template: str, asked: str, said: str
) -> None:
    made = renderer(kind, template)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"<image>\n{asked}"}]
    prompt = made.tokenizer.apply_chat_template(
        messages, chat_template=made.template, add_generation_prompt=True, return_dict=True
    )["input_ids"]
    taught = made(dialogue([(asked, said)]), True)
    first = int(taught.answer.nonzero()[0])
    shown = taught.input_ids[:first]
    assert shown.where(shown != IMAGE_PLACEHOLDER, made.image_id).tolist() == prompt


@pytest.mark.parametrize("template", END)
@settings(max_examples=15, deadline=None)
@given(rounds=ROUNDS, room=st.integers(5, 120))
def test_what_is_too_long_ends_with_a_whole_answer_and_keeps_its_image(
    template: str, rounds: list[tuple[str, str]], room: int
) -> None:
    whole = renderer("byte-level", template)(dialogue(rounds), True)
    made = renderer("byte-level", template, room)
    try:
        short = made(dialogue(rounds), True)
    except NoRoomError:
        assert len(renderer("byte-level", template)(dialogue(rounds[:1]), True).input_ids) > room - (
            template == "qwen2"
        )  # and a newline
        return
    length = len(short.input_ids)
    assert length <= room
    assert short.input_ids.tolist() == whole.input_ids[:length].tolist()
    assert short.input_ids.tolist().count(IMAGE_PLACEHOLDER) == 1
    assert answers_of(made, short)[-1].endswith(END[template])


def test_the_second_of_two_captions_can_be_left_out() -> None:
    first = dialogue([("what?", "the one")])
    whole = renderer("byte-level", "plain")(first, True)
    short = renderer("byte-level", "plain", len(whole.input_ids))(dialogue([("what?", "the one")] * 2), True)
    assert short.input_ids.tolist() == whole.input_ids.tolist()


@pytest.mark.parametrize("template", END)
@pytest.mark.parametrize("kind", KINDS)
def test_the_end_token_is_the_templates(kind: str, template: str) -> None:
    made = renderer(kind, template)
    assert made.tokenizer.convert_ids_to_tokens(made.end_token) == END[template]


@pytest.mark.parametrize("template", ["llama3", "qwen2"])
def test_a_template_of_another_tokenizers_is_refused(template: str) -> None:
    with pytest.raises(UserError, match=f"template: {template} ends answers with .* no special token of the tokenizer"):
        ConversationRenderer(tokenizer("byte-level", ("<image>",)), template)


def test_a_template_whose_prompt_is_no_beginning_of_what_it_teaches_is_refused(tmp_path: Path) -> None:
    template = tmp_path / "space.jinja"
    template.write_text(
        "{% for message in messages %}{% if message['role'] == 'assistant' %}ASSISTANT: "
        "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}{% else %}{{ message['content'] }}\n"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT: {% endif %}"
    )
    with pytest.raises(UserError, match="shows other tokens before an answer than in a prompt"):
        ConversationRenderer(tokenizer("byte-level"), str(template))
