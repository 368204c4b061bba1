import json

import pytest

from datamodules.shards.sample import Turn, parse_sample
from lit_avg.utils.errors import UserError

ROUND = [{"from": "human", "value": "Which?"}, {"from": "gpt", "value": "This."}]


def record(**fields: object) -> bytes:
    return json.dumps({"id": "it", "conversations": ROUND * 2, **fields}).encode()


def test_a_system_turn_is_not_part_of_a_round() -> None:
    system = {"from": "system", "value": "Be brief."}
    sample = parse_sample("000000001", record(conversations=[system, *ROUND, *ROUND]), None)
    assert sample.system == (Turn("system", "Be brief."),)
    assert sample.rounds == [(Turn("human", "Which?"), Turn("gpt", "This."))] * 2


def test_every_round_has_a_kind_or_none_has() -> None:
    assert parse_sample("000000001", record(kinds=["a", "b"]), None).kinds == ("a", "b")
    assert parse_sample("000000001", record(), None).kinds == ()
    with pytest.raises(UserError, match="sample 000000001 is not a conversation: it has 1 kinds for 2 rounds"):
        parse_sample("000000001", record(kinds=["a"]), None)


@pytest.mark.parametrize("broken", [b"{", b"[]", b'{"conversations": null}', record(conversations=ROUND[:1])])
def test_a_record_that_is_no_conversation_is_named(broken: bytes) -> None:
    with pytest.raises(UserError, match="sample 000000001 is not a conversation"):
        parse_sample("000000001", broken, None)


def test_an_image_that_the_text_does_not_mark_is_noticed() -> None:
    with pytest.raises(UserError, match="no <image> in the first question"):
        parse_sample("000000001", record(), b"image")


def test_half_a_character_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"sample 000000001 is not a conversation: .* surrogates not allowed"):
        parse_sample(
            "000000001",
            rb'{"conversations": [{"from": "human", "value": "\ud83d"}, {"from": "gpt", "value": "a"}]}',
            None,
        )


@pytest.mark.parametrize(
    "question", ["<<image>image>", "<image><image>", "<ima<image>ge> what?", "what? <i<image>mage>"]
)
def test_a_mark_that_another_hides_is_refused(question: str) -> None:
    said = [{"from": "human", "value": question}, {"from": "gpt", "value": "This."}]
    with pytest.raises(UserError, match=r"sample 000000001 is not a conversation: (a second|2) <image>"):
        parse_sample("000000001", record(conversations=said), b"image")


def test_half_a_mark_is_text() -> None:
    said = [{"from": "human", "value": "<image>\n<ima"}, {"from": "gpt", "value": "ge> it is."}]
    assert parse_sample("000000001", record(conversations=said), b"image").turns[1].text == "ge> it is."
