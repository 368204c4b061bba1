"""An `AvgLlava` as a folder: a plain LLaVA-NeXT of transformers, and the router beside it.

config.json, model*.safetensors   the backbone, as `save_pretrained` writes it
router.safetensors                the router's tensors
scaler.safetensors                its pooling weights, where they are learned
router.json                       what it takes to build the rest of the model
processor_config.json, tokenizer* transformers' processor, where the model came with one
"""

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from transformers import LlavaNextProcessor

from lit_avg.llava_next.backbone import Backbone
from lit_avg.llava_next.prompts import PromptEncoder
from lit_avg.model import AvgLlava
from lit_avg.routing.router import GranularityRouter
from lit_avg.semantics import Semantics
from lit_avg.utils.atomic_io import obey_umask
from lit_avg.utils.errors import UserError
from lit_avg.utils.weight_io import load_exactly, read_file, read_json
from lit_avg.visual_tokens.granularity import Granularities

ROUTER_WEIGHTS, ROUTER_SETTINGS = "router.safetensors", "router.json"
SCALER_WEIGHTS = "scaler.safetensors"

PROCESSOR = "processor_config.json"
"""What transformers calls the settings of a processor."""


def save_model(model: AvgLlava, folder: Path) -> None:
    """Write a model to a folder, which is made if it is not there."""
    model.backbone.hf.save_pretrained(folder)
    save_file(
        {name: tensor.contiguous() for name, tensor in model.router.state_dict().items()}, folder / ROUTER_WEIGHTS
    )
    if learned := model.scaler.state_dict():
        save_file(learned, folder / SCALER_WEIGHTS)
    settings = {
        "granularities": {"tokens": list(model.granularities.tokens), "step": model.granularities.step},
        "pooling": model.scaler.pooling,
        "k": model.instruction_filter.k,
        "router": {
            "instruction_tokens": model.router.instruction_tokens,
            "heads": model.router.fusion.self_attn.num_heads,
            "dropout": model.router.fusion.dropout.p,
        },
        "router_is_trained": model.router_is_trained,
        "semantics": asdict(model.semantics),
    }
    (folder / ROUTER_SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    if model.prompt_encoder is not None:
        model.prompt_encoder.processor.save_pretrained(folder)
    obey_umask(folder)


def load_model(folder: Path, attention: str = "sdpa") -> AvgLlava:
    """The model that `save_model` wrote, bit for bit and in the precision of its weights.

    Args:
        folder: where it is.
        attention: transformers' `attn_implementation`.

    Raises:
        UserError: a file is missing, or a tensor is missing, one too many, or of another shape than the settings say.
    """
    settings = cast(dict[str, Any], read_json(folder / ROUTER_SETTINGS))
    try:
        tokens = cast(Sequence[int], settings["granularities"]["tokens"])
        with made_in(weights_type(folder)):
            model = AvgLlava(
                partial(Backbone, pretrained=str(folder), attention=attention),
                Granularities(tokens, settings["granularities"]["step"]),
                partial(GranularityRouter, **settings["router"]),
                settings["pooling"],
                settings["k"],
                Semantics(**settings["semantics"]),
            )
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / ROUTER_SETTINGS} is incomplete: {error}; write the folder anew") from error
    model.router_is_trained = bool(settings.get("router_is_trained", True))
    if model.scaler.state_dict():
        path = folder / SCALER_WEIGHTS
        load_exactly(model.scaler, read_file(path), str(path), f"{ROUTER_SETTINGS} describes")
    path = folder / ROUTER_WEIGHTS
    load_exactly(model.router, read_file(path), str(path), f"{ROUTER_SETTINGS} describes")
    if (folder / PROCESSOR).is_file():
        model.prompt_encoder = PromptEncoder(LlavaNextProcessor.from_pretrained(folder))
    return model.eval()


def weights_type(folder: Path) -> torch.dtype:
    """The type of numbers of a LLaVA-NeXT's weights, by its config; float32 where that does not say."""
    config = read_json(folder / "config.json")
    return getattr(torch, str(config.get("dtype") or config.get("torch_dtype") or "float32"))


@contextmanager
def made_in(dtype: torch.dtype) -> Generator[None]:
    """Within this, what is made is of a type of floating-point numbers."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
