"""Weights of the hub, in every layout they lie in there, come in exactly or are refused before anything is made."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, CLIPModel, SiglipModel
from transformers.configuration_utils import PreTrainedConfig

from lit_avg.llava_next import hf_model
from lit_avg.llava_next.backbone import Backbone
from lit_avg.llava_next.hf_model import weights_to_come
from lit_avg.llava_next.llm_configs import config_of
from lit_avg.utils.errors import UserError
from lit_avg.utils.mapped_weights import is_mapped
from tests.llms import llm

VISION: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 16,
}
SIGLIP = VISION | {"model_type": "siglip_vision_model"}
TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}

Layout = Callable[[dict[str, Tensor], Path], object]


def in_one_file(weights: dict[str, Tensor], folder: Path) -> None:
    save_file(
        {name: tensor.clone() for name, tensor in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )


def in_two_files(weights: dict[str, Tensor], folder: Path) -> None:
    names, files = sorted(weights), ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    for start, file in enumerate(files):
        save_file({name: weights[name].clone() for name in names[start::2]}, folder / file, {"format": "pt"})
    index = {"weight_map": {name: files[place % 2] for place, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 1}} | index))


def pickled(weights: dict[str, Tensor], folder: Path) -> None:
    torch.save(weights, folder / "pytorch_model.bin")


def pickled_in_two(weights: dict[str, Tensor], folder: Path) -> None:
    """As Vicuna lies on the hub, with the frequencies that transformers saved at the time."""
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(6)
    names, files = sorted(weights), ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    for start, file in enumerate(files):
        torch.save({name: weights[name] for name in names[start::2]}, folder / file)
    index = {"weight_map": {name: files[place % 2] for place, name in enumerate(names)}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def pickled_as_before_1_6(weights: dict[str, Tensor], folder: Path) -> None:
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def made(config: PreTrainedConfig, model: Any = AutoModel) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return model.from_config(config).state_dict()


ENCODERS: dict[str, tuple[dict[str, Any], Any, Layout]] = {
    "CLIP, text model and position ids beside it": (VISION, CLIPModel, pickled),
    "CLIP, before torch 1.6": (VISION, CLIPModel, pickled_as_before_1_6),
    "CLIP, alone": (VISION, None, in_one_file),
    "SigLIP and SigLIP 2 of fixed resolution": (SIGLIP, SiglipModel, in_one_file),
    "SigLIP, alone": (SIGLIP, None, in_two_files),
}


def encoder_on_the_hub(name: str, folder: Path) -> dict[str, Tensor]:
    """Writes it in half precision; gives the tensors of the encoder by their names within it."""
    settings, whole, layout = ENCODERS[name]
    folder.mkdir()
    if whole is None:
        tower = {key: tensor.half() for key, tensor in made(config_of(dict(settings))).items()}
        layout({f"vision_model.{key}": tensor for key, tensor in tower.items()}, folder)
        (folder / "config.json").write_text(json.dumps(settings))
        return tower
    config = whole.config_class(text_config=TEXT, vision_config=settings, projection_dim=16)
    torch.manual_seed(1)
    model = whole(config)
    inside = {key: tensor.half() for key, tensor in model.state_dict().items()}
    tower = {key.removeprefix("vision_model."): t for key, t in inside.items() if key.startswith("vision_model.")}
    layout(inside | {"vision_model.embeddings.position_ids": torch.arange(17)}, folder)
    config.save_pretrained(folder)
    return tower


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_come_in_as_they_lie_on_the_hub(name: str, tmp_path: Path) -> None:
    tower = encoder_on_the_hub(name, tmp_path / "hub")
    backbone = Backbone(dict(ENCODERS[name][0]), llm("llama2"))
    backbone.load_part("vision_encoder", str(tmp_path / "hub"))
    ours = backbone.hf.model.vision_tower.state_dict()
    assert ours.keys() == tower.keys()
    assert all(torch.equal(tensor, tower[key].float()) for key, tensor in ours.items())


LAYOUTS: dict[str, Layout] = {
    "vicuna": pickled_in_two,
    "llama3": in_two_files,
    "llama3.2": in_one_file,
    "qwen2.5": in_one_file,
    "qwen3": in_two_files,
    "smollm2": in_one_file,
    "mistral": pickled,
}


def llm_on_the_hub(family: str, folder: Path) -> dict[str, Tensor]:
    folder.mkdir()
    config = AutoConfig.for_model(**llm(family))
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in made(config, AutoModelForCausalLM).items()}
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set[str]()
    LAYOUTS[family]({name: tensor for name, tensor in weights.items() if name not in tied}, folder)
    config.save_pretrained(folder)
    return weights


@pytest.mark.parametrize("family", LAYOUTS)
def test_llms_come_in_as_they_lie_on_the_hub_and_nothing_is_drawn_or_held_before(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf_model, "DRAWN_AT_MOST", 0)  # as 7B are
    theirs = llm_on_the_hub(family, tmp_path / "hub")
    state = torch.get_rng_state()
    with weights_to_come(["vision_encoder", "connector", "llm"]), torch.device("cpu:0"):  # Lightning names a device
        backbone = Backbone(dict(VISION), llm(family))
        assert all(parameter.is_meta for parameter in backbone.parameters())
        backbone.load_part("llm", str(tmp_path / "hub"))
    assert torch.equal(torch.get_rng_state(), state)
    ours = backbone.hf.model.language_model.state_dict() | {"lm_head": backbone.hf.lm_head.weight}
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name.removeprefix("model.").removesuffix(".weight" if name.startswith("lm_head") else "\0"): tensor.shape
        for name, tensor in theirs.items()
    }
    for name, tensor in theirs.items():
        parameter = backbone.hf.get_parameter(name.replace("model.", "model.language_model.", 1))
        assert is_mapped(parameter)
        assert torch.equal(parameter, tensor)
    embeddings = backbone.hf.get_input_embeddings()
    assert (backbone.hf.lm_head.weight is embeddings.weight) == backbone.llm_config.tie_word_embeddings


def changed(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


def without(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        weights = torch.load(folder / "pytorch_model.bin")
        del weights[name]
        torch.save(weights, folder / "pytorch_model.bin")

    return change


ROPE = {"rope_type": "default", "rope_theta": 1e6}

REFUSED: Mapping[str, tuple[Literal["vision_encoder", "llm"], str, Callable[[Path], None], str]] = {
    "a LLaVA as encoder": (
        "vision_encoder",
        "mistral",
        changed(model_type="llava_next"),
        "is the backbone's `pre",
    ),
    "LLaVA's own layout as LLM": (
        "llm",
        "mistral",
        changed(model_type="llava_llama"),
        "llava_llama, but mistral",
    ),
    "another family": ("llm", "qwen2.5", lambda _: None, "is a model of type qwen2, but mistral is wanted here"),
    "an LLM as encoder": ("vision_encoder", "mistral", lambda _: None, "type mistral, but clip_vision_model"),
    "SigLIP 2 of any resolution": ("vision_encoder", "mistral", changed(model_type="siglip2"), "type siglip2, but"),
    "a tensor that is missing": (
        "llm",
        "mistral",
        without("model.norm.weight"),
        "lacks model.language_model.norm",
    ),
    "no LM head": ("llm", "mistral", without("lm_head.weight"), "lacks lm_head.weight"),
    "other positions": ("llm", "mistral", changed(rope_parameters=ROPE), "rope_parameters is"),
    "another norm": ("llm", "mistral", changed(rms_norm_eps=1e-2), "rms_norm_eps is 0.01 there"),
    "another activation": ("llm", "mistral", changed(hidden_act="gelu"), "hidden_act is gelu there"),
    "other heads of the same width": ("llm", "mistral", changed(num_attention_heads=4, head_dim=6), "num_attention_h"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_belong_here_is_refused_in_a_line(name: str, tmp_path: Path) -> None:
    part, family, change, message = REFUSED[name]
    llm_on_the_hub(family, tmp_path / "hub")
    change(tmp_path / "hub")
    backbone = Backbone(dict(VISION), llm("mistral"))
    before = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
    with pytest.raises(UserError, match=message):
        backbone.load_part(part, str(tmp_path / "hub"))
    assert all(torch.equal(tensor, before[key]) for key, tensor in backbone.state_dict().items())


def test_biases_that_a_family_does_not_have_are_not_lost(tmp_path: Path) -> None:
    llm_on_the_hub("qwen2.5", tmp_path / "hub")
    changed(model_type="llama")(tmp_path / "hub")
    llama = llm("qwen2.5", model_type="llama")
    with pytest.raises(UserError, match=r"q_proj.bias, .* more too many"):
        Backbone(dict(VISION), llama).load_part("llm", str(tmp_path / "hub"))
