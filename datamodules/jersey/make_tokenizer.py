"""Make the tokenizer in datamodules/encoding/tokenizers/jersey. Run: python -m datamodules.jersey.make_tokenizer

Byte-level BPE, so any text goes through it unchanged; digits never share a token; every digit and every word of
Jersey's questions and answers is one token, with and without a space before it. 512 tokens at most.
"""

from itertools import product
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from datamodules.encoding.conversation import read_template
from datamodules.jersey.drawing import COLOURS
from datamodules.jersey.questions import HORIZONTAL, QUESTIONS, VERTICAL

FOLDER = Path(__file__).parents[1] / "encoding" / "tokenizers" / "jersey"
"""Where the shipped tokenizer lives."""


def words() -> list[str]:
    """Every word of Jersey's conversations, the speakers' names included."""
    texts = ["USER ASSISTANT", *QUESTIONS.values(), *COLOURS, *VERTICAL, *HORIZONTAL]
    return sorted({word.strip("?") for text in texts for word in text.split()})


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Learn the merges from the words and digits alone, which makes each of them one token with its space."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]  a setter without type
        [pre_tokenizers.Split(Regex(r" ?\d"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]  a setter without type
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<pad>", "<s>", "</s>", "<image>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        [space + word for word, space in product([*words(), *"0123456789"], ("", " "))], trainer
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
        chat_template=read_template("vicuna"),
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )


if __name__ == "__main__":
    make_tokenizer().save_pretrained(FOLDER)
