"""An exported folder as others use it: transformers alone, by every way in, asks the model as it was taught."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from datamodules.encoding.conversation import ConversationRenderer
from datamodules.encoding.hf_processor import llava_next_processor
from datamodules.shards.sample import Turn
from lit_avg.batch import IMAGE_PLACEHOLDER
from lit_avg.commands.export import make_readable_by_transformers
from lit_avg.llava_next.backbone import Backbone
from lit_avg.llava_next.prompts import PromptEncoder
from lit_avg.model import AvgLlava
from lit_avg.routing.policies import FixedPolicy
from lit_avg.visual_tokens.granularity import Granularities
from tests.datamodules.encoding.test_templates import bpe, byte_level
from tests.tiny import LEVELS, TILE

PLANES = [[TILE, 2 * TILE], [2 * TILE, TILE]]
QUESTION = "what is in the image?"
PICTURE = Image.linear_gradient("L").resize((50, 30)).convert("RGB")
SYSTEM_PROMPT = 'Use emoji 😀 "please".'

ALONE = """
import json, sys
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, pipeline

def used(folder):
    processor = AutoProcessor.from_pretrained(folder + "/exported")
    pixels = Image.open(folder + "/image.png")
    image, words = {"type": "image", "image": pixels}, {"type": "text", "text": sys.argv[1]}
    chats = {
        "a string": [{"role": "user", "content": "<image>\\n" + words["text"]}],
        "a list": [{"role": "user", "content": [image, words]}],
        "a list, image last": [{"role": "user", "content": [words, image]}],
    }
    pictured = {}
    for name, chat in chats.items():
        text = processor.apply_chat_template(chat, add_generation_prompt=True)
        pictured[name] = processor(images=pixels, text=text)["input_ids"][0]
        if name != "a string":
            at_once = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True)
            pictured[name + ", at once"] = at_once["input_ids"][0]
    alone = [{"role": "user", "content": [words]}]
    text_only = [processor(text=processor.apply_chat_template(alone, add_generation_prompt=True))["input_ids"][0]]
    tokenizer = AutoTokenizer.from_pretrained(folder + "/exported")
    text_only += [tokenizer.apply_chat_template(alone, add_generation_prompt=True)["input_ids"]]
    two = [{"role": "user", "content": [image, image, words]}]
    two = processor.apply_chat_template(two, add_generation_prompt=True, tokenize=True)[0]
    both = [chats["a list"], chats["a list, image last"]]
    answers = pipeline("image-text-to-text", folder + "/exported")(
        text=both, max_new_tokens=6, return_tensors=True, batch_size=2
    )
    answers = [answer[0]["generated_token_ids"][len(pictured["a list"]) :].tolist() for answer in answers]
    told = {"pictured": pictured, "text only": text_only, "two images": two, "answers": answers}
    return {**told, "image": processor.image_token_id}

told = {folder: used(folder) for folder in sys.argv[2:]}
told["ours"] = [name for name in sys.modules if name.split(".")[0] in ("lit_avg", "datamodules", "callbacks")]
print(json.dumps(told))
"""


def llama_3(folder: Path) -> PreTrainedTokenizerFast:
    """Byte-level, a post-processor writes the begin token."""
    made = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(), bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", pad_token="<|eot_id|>"
    )
    made.add_special_tokens({"additional_special_tokens": ["<|start_header_id|>", "<|end_header_id|>"]})
    begin = processors.TemplateProcessing("<|begin_of_text|> $A", None, [("<|begin_of_text|>", made.bos_token_id)])
    made.backend_tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), begin])
    return reloaded(made, folder, "PreTrainedTokenizerFast")


def vicuna(folder: Path) -> PreTrainedTokenizerFast:
    """Llama-2's own class, which adds the begin token by a setting; special tokens are in the vocabulary."""
    settings = json.loads(bpe().to_str())
    pieces = [piece for piece in settings["model"]["vocab"] if piece != "<unk>"]
    settings["model"]["vocab"] = {piece: number for number, piece in enumerate(["<unk>", "<s>", "</s>", *pieces])}
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(settings)),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<unk>",
    )
    made.add_bos_token = True
    return reloaded(made, folder, "LlamaTokenizer")


def qwen_2(folder: Path) -> PreTrainedTokenizerFast:
    """No begin token at all."""
    made = PreTrainedTokenizerFast(tokenizer_object=byte_level(), eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    return reloaded(made, folder, "Qwen2Tokenizer")


def reloaded(made: PreTrainedTokenizerFast, folder: Path, kind: str) -> PreTrainedTokenizerFast:
    """As it comes from the hub."""
    made.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": kind}))
    return cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(folder))


FAMILIES = {"llama3": llama_3, "vicuna": vicuna, "qwen2": qwen_2}


def model_for(renderer: ConversationRenderer) -> AvgLlava:
    """A random one with room for all tokens."""
    vision = {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 2, "image_size": TILE, "patch_size": 8, "projection_dim": 16}
    llm = {"model_type": "llama", "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2}
    llm |= {"num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": 0.2}
    llm |= {"vocab_size": len(renderer.tokenizer), "eos_token_id": renderer.end_token, "pad_token_id": 0}
    torch.manual_seed(0)
    model = AvgLlava(lambda: Backbone(vision_encoder=vision, llm=llm), Granularities(LEVELS)).eval()
    chosen = model.backbone.hf.config.vision_feature_select_strategy
    model.prompt_encoder = PromptEncoder(
        llava_next_processor(
            renderer.tokenizer, renderer.encode.template, TILE, PLANES, (0.5,) * 3, (0.5,) * 3, 8, chosen
        )
    )
    make_readable_by_transformers(model)
    return model


def placeholders(ids: list[int], image: int) -> list[int]:
    """One placeholder for each run of image tokens, as in training."""
    marked = [IMAGE_PLACEHOLDER if token == image else token for token in ids]
    return [one for one, before in zip(marked, [0, *marked], strict=False) if one >= 0 or one != before]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[ConversationRenderer, AvgLlava, Any]]:
    """For each family what we make of it, and what a process without us tells of its folder."""
    root = tmp_path_factory.mktemp("exported")
    made = dict[str, tuple[ConversationRenderer, AvgLlava]]()
    for family, tokenizer in FAMILIES.items():
        folder = root / family
        renderer = ConversationRenderer(tokenizer(folder / "hub"), family, SYSTEM_PROMPT)
        made[family] = renderer, model_for(renderer)
        made[family][1].save_pretrained(folder / "exported")
        PICTURE.save(folder / "image.png")
    command = [sys.executable, "-I", "-c", ALONE, QUESTION, *(str(root / family) for family in FAMILIES)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd="/", check=False)
    assert finished.returncode == 0, finished.stderr
    told = json.loads(finished.stdout.splitlines()[-1])
    assert told["ours"] == []
    return {family: (*made[family], told[str(root / family)]) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_way_in_gives_the_tokens_of_training(
    family: str, exported: dict[str, tuple[ConversationRenderer, AvgLlava, Any]]
) -> None:
    renderer, model, told = exported[family]

    def taught(has_image: bool) -> list[int]:
        shown = renderer((Turn("human", QUESTION), Turn("gpt", "So.")), has_image)
        return shown.input_ids[: int(shown.answer.nonzero()[0])].tolist()

    pictured = {name: placeholders(ids, told["image"]) for name, ids in told["pictured"].items()}
    assert pictured == dict.fromkeys(pictured, taught(has_image=True))
    assert told["text only"] == [taught(has_image=False)] * 2
    assert SYSTEM_PROMPT in renderer.tokenizer.decode(told["text only"][0])
    assert placeholders(told["two images"], told["image"]).count(IMAGE_PLACEHOLDER) == 2
    ours = model.generate([PICTURE], [QUESTION], FixedPolicy(LEVELS[-1]), max_new_tokens=6).texts
    assert model.prompt_encoder is not None
    assert [model.prompt_encoder.decode(torch.tensor(answer)) for answer in told["answers"]] == ours * 2
