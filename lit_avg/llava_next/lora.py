"""LoRA (arXiv 2106.09685): a trained adapter of low rank beside each linear layer of a frozen LLM, by peft.

An adapted layer gives Wx + alpha / rank * B(A(x)), with A (rank, in) drawn and B (out, rank) zero at first, so that a
fresh adapter changes nothing. peft calls the layer's own tensors `<layer>.base_layer.weight` from then on: weights are
taken over and hashed by their plain names, so that an LLM is the same with and without an adapter.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from lit_avg.utils.arguments import check_counts, check_number
from lit_avg.utils.errors import UserError
from lit_avg.utils.mapped_weights import wanted_type

if TYPE_CHECKING:  # peft is slow to import, and most runs have no adapter
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer

_OWN_STREAM = 2106_09685
"""Tells an adapter's draw from all others that begin with the run's seed."""


@dataclass(frozen=True)
class LoRA:
    """An adapter of the LLM.

    Args:
        rank: of the product that is added to each layer.
        alpha: weight of the product, times rank.
        targets: names of the linear layers that are adapted, as `q_proj`; None for all of attention and feed-forward.
        dropout: of what goes into the adapter, in training.

    Raises:
        UserError: a number is none that an adapter can have, or there is no target.
    """

    rank: int
    alpha: float
    targets: Sequence[str] | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_counts({"lora.rank": self.rank})
        check_number("lora.alpha", self.alpha, above=0)
        check_number("lora.dropout", self.dropout, least=0, below=1)
        if self.targets is not None and not self.targets:
            raise UserError("lora.targets is empty; name layers as q_proj, or null for all of them")

    @property
    def scale(self) -> dict[str, float]:
        """What, beside its weights, decides what an adapter computes."""
        return {"rank": self.rank, "alpha": float(self.alpha)}

    def __str__(self) -> str:
        on = "all linear layers" if self.targets is None else ", ".join(self.targets)
        return f"rank {self.rank}, alpha {self.alpha:g}, on {on}"


def check_same_scale(lora: LoRA | None, saved: Mapping[str, float], source: str) -> None:
    """Refuse an adapter's weights where none is wanted, or where they would compute something else.

    Args:
        lora: the adapter here.
        saved: `LoRA.scale` of the one that was saved.
        source: where that is, for the message.

    Raises:
        UserError: names both.
    """
    there = ", ".join(f"{name}: {value:g}" for name, value in saved.items())
    if lora is None:
        raise UserError(
            f"{source} has an adapter of the LLM, but this backbone none; give it `lora: {{{there}}}`, or export that "
            "run, which merges the adapter, and start from the folder"
        )
    if lora.scale != saved:
        here = ", ".join(f"{name}: {value:g}" for name, value in lora.scale.items())
        raise UserError(f"{source} has an adapter with {there}, but `lora` says {here} here; write the former")


def add_adapter(llm: PreTrainedModel, lora: LoRA) -> None:
    """Adapt a decoder of transformers in place, by an adapter that is drawn alike whatever else is drawn.

    Raises:
        UserError: a target is no linear layer of it.
    """
    from peft import inject_adapter_in_model

    config = _peft_config(lora, _targets(llm, lora))
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, llm)
    generator = torch.Generator().manual_seed(torch.initial_seed() ^ _OWN_STREAM)
    for layer in adapted_layers(llm).values():
        _draw(cast(nn.Parameter, layer.lora_A["default"].weight), generator)
    for module in adapter_modules(llm):  # peft makes float32 of half precision, and what is trained of what is not
        module.train(llm.training).to(wanted_type(cast(nn.Embedding, llm.get_input_embeddings()).weight))


def _peft_config(lora: LoRA, targets: list[str], base: str | None = None) -> "LoraConfig":
    from peft import LoraConfig

    return LoraConfig(
        r=lora.rank,
        lora_alpha=cast(int, lora.alpha),  # peft divides it by the rank, whole or not
        lora_dropout=lora.dropout,
        target_modules=targets,
        base_model_name_or_path=base,
        task_type="CAUSAL_LM",
    )


def _targets(llm: PreTrainedModel, lora: LoRA) -> list[str]:
    """The names of the layers to adapt, in the order of the data's way."""
    layers = cast(nn.ModuleList, llm.layers).named_modules()
    known = list(dict.fromkeys(name.rpartition(".")[2] for name, module in layers if isinstance(module, nn.Linear)))
    if unknown := [name for name in lora.targets or () if name not in known]:
        raise UserError(
            f"lora.targets: {', '.join(unknown)} is no linear layer of a {llm.config.model_type}; "
            f"choose among {', '.join(known)}"
        )
    return known if lora.targets is None else list(lora.targets)


@torch.no_grad()
def _draw(weight: nn.Parameter, generator: torch.Generator) -> None:
    """As torch draws a linear layer, in float32 on the CPU, whatever the layer is."""
    drawn = torch.empty(weight.shape, device="cpu")
    nn.init.kaiming_uniform_(drawn, math.sqrt(5), generator=generator)
    weight.copy_(drawn)


def adapted_layers(module: nn.Module) -> "dict[str, LoraLayer]":
    """The layers that have an adapter, by name."""
    return {name: cast("LoraLayer", layer) for name, layer in module.named_modules() if hasattr(layer, "lora_A")}


def adapter_modules(module: nn.Module) -> list[nn.Module]:
    """The modules that adapters consist of."""
    return [part for one in adapted_layers(module).values() for part in (one.lora_dropout, one.lora_A, one.lora_B)]


def is_of_adapter(name: str) -> bool:
    """Whether a tensor of a model belongs to an adapter."""
    return ".lora_A." in name or ".lora_B." in name


def plain_name(name: str) -> str:
    """What a tensor is called where its layer has no adapter."""
    return name.replace(".base_layer.", ".")


def save_adapter(llm: PreTrainedModel, lora: LoRA, base: str, folder: Path) -> None:
    """Write the adapter as peft does, for the causal language model whose decoder `llm` is.

    Args:
        llm: has the adapter.
        lora: its settings.
        base: hub id or folder of the causal language model, as peft is to find it.
        folder: is there.
    """
    layers = adapted_layers(llm)
    targets = list(dict.fromkeys(name.rpartition(".")[2] for name in layers))
    _peft_config(lora, targets, base).save_pretrained(str(folder))
    weights = {
        f"base_model.model.model.{name}.{matrix}.weight": cast(nn.Linear, getattr(layer, matrix)["default"]).weight
        for name, layer in layers.items()
        for matrix in ("lora_A", "lora_B")
    }
    named = {name: weight.detach().contiguous() for name, weight in weights.items()}
    save_file(named, folder / "adapter_model.safetensors", {"format": "pt"})


def merge_adapter(llm: PreTrainedModel) -> None:
    """Add the adapter to the layers that it is beside, and take it away."""
    for name, layer in adapted_layers(llm).items():
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(llm.get_submodule(parent), child, layer.get_base_layer())
    del llm.peft_config
