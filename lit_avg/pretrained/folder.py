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
from typing import Self, cast

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import LlavaNextProcessor

from lit_avg.llava_next.backbone import Backbone
from lit_avg.llava_next.prompts import PromptEncoder
from lit_avg.routing.instruction_filter import InstructionFilter
from lit_avg.routing.router import GranularityRouter
from lit_avg.semantics import Choices, Semantics
from lit_avg.utils.atomic_io import obey_umask
from lit_avg.utils.errors import UserError
from lit_avg.utils.weight_io import load_exactly, read_file, read_json
from lit_avg.visual_tokens.granularity import Granularities
from lit_avg.visual_tokens.scaler import GranularityScaler

ROUTER_WEIGHTS, ROUTER_SETTINGS = "router.safetensors", "router.json"
SCALER_WEIGHTS = "scaler.safetensors"

PROCESSOR = "processor_config.json"
"""What transformers calls the settings of a processor."""


class PretrainedMixin(nn.Module):
    """Reading and writing of a model's folder, for `AvgLlava`, whose parts it names."""

    backbone: Backbone
    granularities: Granularities
    scaler: GranularityScaler
    instruction_filter: InstructionFilter
    router: GranularityRouter
    semantics: Choices
    prompt_encoder: PromptEncoder | None
    router_is_trained: bool

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model, and its processor if it has one, so that `from_pretrained` gives it back bit for bit.

        Args:
            folder: is made if it is not there.

        Raises:
            UserError: the LLM has an adapter, of which transformers knows nothing.
        """
        if self.backbone.lora is not None:
            raise UserError("the LLM has an adapter; merge it before, with `backbone.merge_adapter()`")
        folder = Path(folder)
        self.backbone.hf.save_pretrained(folder)
        router = {name: tensor.contiguous() for name, tensor in self.router.state_dict().items()}
        save_file(router, folder / ROUTER_WEIGHTS)
        if learned := self.scaler.state_dict():
            save_file(learned, folder / SCALER_WEIGHTS)
        settings = {
            "granularities": {"tokens": list(self.granularities.tokens), "step": self.granularities.step},
            "pooling": self.scaler.pooling,
            "k": self.instruction_filter.k,
            "router": {
                "instruction_tokens": self.router.instruction_tokens,
                "heads": self.router.fusion.self_attn.num_heads,
                "dropout": self.router.fusion.dropout.p,
            },
            "router_is_trained": self.router_is_trained,
            "semantics": asdict(self.semantics),
        }
        (folder / ROUTER_SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        if self.prompt_encoder is not None:
            self.prompt_encoder.processor.save_pretrained(folder)
        obey_umask(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, attention: str = "sdpa") -> Self:
        """The model in a folder that `save_pretrained`, `lit-avg export` or `lit-avg import-release` wrote.

        It is the same bit for bit, and in the precision of its weights.

        Args:
            folder: where it is.
            attention: transformers' `attn_implementation`.

        Raises:
            UserError: a file is missing, or a tensor is missing, one too many, or of another shape than the settings
                say.
        """
        folder = Path(folder)
        settings = read_json(folder / ROUTER_SETTINGS)
        try:
            tokens = cast(Sequence[int], settings["granularities"]["tokens"])
            with made_in(weights_type(folder)):
                model = cls(
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
