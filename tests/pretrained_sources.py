"""Tiny LLaVA-NeXTs in the very layouts of the hub's, with a `tokenizer.model` alone for a tokenizer, as Vicuna has."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

SIDE, PATCH, WORDS = 56, 14, 300

VISION: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
    "projection_dim": 16,
}
LLM: dict[str, Any] = {
    "vocab_size": WORDS + 64,  # with room, as the hub's have
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.1,
    "tie_word_embeddings": False,
}
PINPOINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]

OLD_NAMES = (
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.image_newline", "image_newline"),
)
LLAVAS_NAMES = (
    ("model.language_model.", "model."),
    ("lm_head.", "lm_head."),
    ("model.vision_tower.", "model.vision_tower.vision_tower.vision_model."),
    ("model.multi_modal_projector.linear_1.", "model.mm_projector.0."),
    ("model.multi_modal_projector.linear_2.", "model.mm_projector.2."),
    ("model.image_newline", "model.image_newline"),
)


def write_tokenizer(folder: Path) -> None:
    """The files that lmsys/vicuna-7b-v1.5 has of a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    model = BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(["How wide is it? And high? A chat between a curious user and an assistant: pixels."]),
        model_writer=model,
        vocab_size=WORDS,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    token = {"__type": "AddedToken", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    named = {f"{name}_token": token | {"content": text} for name, text in (("bos", "<s>"), ("eos", "</s>"))}
    settings = {"add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False, "legacy": False}
    settings |= {"model_max_length": 4096, "pad_token": None, "sp_model_kwargs": {}, "padding_side": "right"}
    settings |= {"tokenizer_class": "LlamaTokenizer", "unk_token": token | {"content": "<unk>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | named))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))


def weights() -> dict[str, Tensor]:
    """A LLaVA-NeXT's by transformers' names today, in half precision."""
    torch.manual_seed(0)
    config = LlavaNextConfig(
        vision_config=dict(VISION),
        text_config={"model_type": "llama", **LLM},
        image_grid_pinpoints=PINPOINTS,
        image_token_index=WORDS,
    )
    model = LlavaNextForConditionalGeneration(config)
    return {name: tensor.half() for name, tensor in model.state_dict().items()}


def renamed(tensors: dict[str, Tensor], names: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    pairs = {name: next((now, then) for now, then in names if name.startswith(now)) for name in tensors}
    return {pairs[name][1] + name.removeprefix(pairs[name][0]): tensor for name, tensor in tensors.items()}


def write_shards(tensors: dict[str, Tensor], folder: Path) -> None:
    """Three files and their index."""
    names, files = sorted(tensors), [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    for start, file in enumerate(files):
        save_file({name: tensors[name].clone() for name in names[start::3]}, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: files[place % 3] for place, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_llava_hf(folder: Path) -> None:
    """As llava-hf/llava-v1.6-vicuna-7b-hf: the names that transformers had at the time, half precision."""
    write_tokenizer(folder)
    text = {"model_type": "llama", "torch_dtype": "float16", **LLM}
    config = {"architectures": ["LlavaNextForConditionalGeneration"], "ignore_index": -100, "model_type": "llava_next"}
    config |= {"image_grid_pinpoints": PINPOINTS, "image_token_index": WORDS, "projector_hidden_act": "gelu"}
    config |= {"text_config": text, "vision_config": VISION, "torch_dtype": "float16", "tie_word_embeddings": False}
    config |= {
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "use_image_newline_parameter": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    generation = {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    write_shards(renamed(weights(), OLD_NAMES), folder)


def write_open_llava_next(folder: Path, tower: str) -> None:
    """As Lin-Chen/open-llava-next-vicuna-7b: LLaVA's own layout, the trained encoder inside; its config in `tower`."""
    write_tokenizer(folder)
    config = {"architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava_llama", "torch_dtype": "bfloat16", **LLM}
    config |= {"mm_vision_tower": tower, "mm_projector_type": "mlp2x_gelu", "mm_patch_merge_type": "spatial_unpad"}
    config |= {"mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "image_aspect_ratio": "anyres"}
    config |= {
        "image_grid_pinpoints": [[width, height] for height, width in PINPOINTS],
        "unfreeze_mm_vision_tower": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    write_shards(renamed(weights(), LLAVAS_NAMES), folder)


def write_clip(folder: Path) -> None:
    """As openai/clip-vit-large-patch14-336, but for the weights, which nobody here asks for."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": VISION}))
