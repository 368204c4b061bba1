"""What is read of transformers' configs of LLMs, whose attributes differ from family to family, and what is refused.

A family is taken that is known to compute here what transformers' own LLaVA-NeXT computes with it, packed rows or not;
`tests/test_llm_families.py` has them all.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig

from lit_avg.utils.errors import UserError

LLM_TYPES = ("gemma2", "gemma3_text", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3", "stablelm")
"""Model types that an LLM may have."""

ATTENTION_PACKAGES = {"sdpa": "torch", "eager": "torch", "flash_attention_2": "flash_attn"}
"""transformers' attention implementations that can be chosen, and the package that each needs."""

COMPUTATION = (
    *("hidden_act", "hidden_activation", "rms_norm_eps", "layer_norm_eps", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "rope_parameters", "layer_types", "sliding_window", "query_pre_attn_scalar"),
    *("attn_logit_softcapping", "no_rope_layers", "use_parallel_residual"),
)
"""Settings of encoders and LLMs that decide what their weights compute, and that no tensor's shape tells."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LlmShape:
    """The sizes that a forward pass of an LLM has, as all families have them."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int

    @staticmethod
    def of(config: PreTrainedConfig) -> "LlmShape":
        """The sizes in an LLM's config; what a family leaves out is what transformers takes it for."""
        told: dict[str, Any] = config.to_dict()
        heads: int = told["num_attention_heads"]
        return LlmShape(
            hidden_size=told["hidden_size"],
            intermediate_size=told["intermediate_size"],
            num_hidden_layers=told["num_hidden_layers"],
            num_attention_heads=heads,
            num_key_value_heads=told.get("num_key_value_heads") or heads,
            head_dim=told.get("head_dim") or told["hidden_size"] // heads,
            vocab_size=told["vocab_size"],
        )


def check_attention(attention: str) -> None:
    """Refuse an attention implementation that there is not.

    Raises:
        UserError: names those that there are, or the package that is missing.
    """
    package = ATTENTION_PACKAGES.get(attention)
    if package is None:
        known = ", ".join(ATTENTION_PACKAGES)
        raise UserError(f"attention: {attention} is none that an LLM here can be computed with; choose one of {known}")
    if find_spec(package) is None:
        raise UserError(f"attention: {attention} needs the package {package}, which is not installed; choose sdpa")


def check_llm(config: PreTrainedConfig) -> None:
    """Refuse an LLM that would not compute here what it computes elsewhere, and leave out what LLaVA-NeXT leaves out.

    Raises:
        UserError: it is of a family that is not known, attends to what comes later, or has heads or positions that make
            no sense here.
    """
    if config.model_type not in LLM_TYPES:
        raise UserError(
            f"llm: model_type {config.model_type} is none that is known to work as the LLM of a LLaVA-NeXT; "
            f"choose one of {', '.join(LLM_TYPES)}"
        )
    told = config.to_dict()
    if told.get("use_bidirectional_attention"):
        raise UserError(
            "llm: use_bidirectional_attention lets tokens see later ones, and answers would be read; unset it"
        )
    shape = LlmShape.of(config)
    if shape.num_attention_heads % shape.num_key_value_heads:
        raise UserError(
            f"llm: num_attention_heads is {shape.num_attention_heads}, no multiple of num_key_value_heads, "
            f"{shape.num_key_value_heads}"
        )
    if "dynamic" in rope_types(config):
        raise UserError(
            "llm: rope_type dynamic makes a token's place depend on the longest sequence of its batch, and so every "
            "number on which others it is read with; choose another"
        )
    if (cap := told.get("final_logit_softcapping")) is not None:
        config.update({"final_logit_softcapping": None})
        _log.warning(
            "llm: the cap of %s on the logits (final_logit_softcapping) is left out, in training, feedback, test and "
            "export alike, as transformers' LLaVA-NeXT has none; set it to null to be told no more",
            cap,
        )


def rope_types(config: PreTrainedConfig) -> dict[str, Mapping[str, Any]]:
    """The kinds of positions that an LLM's layers have, with their settings."""
    told: Mapping[str, Any] = config.to_dict().get("rope_parameters") or {}
    each = [told] if "rope_type" in told else [of_layer for of_layer in told.values() if isinstance(of_layer, Mapping)]
    return {settings["rope_type"]: settings for settings in each}


def check_lengths(config: PreTrainedConfig, lengths: Tensor) -> None:
    """Refuse sequences of which some are so long that transformers gives all of their batch other positions.

    Args:
        config: of an LLM.
        lengths: of the sequences, (B,), wherever they lie: only an LLM for which they matter waits for them.

    Raises:
        UserError: names the longest and the shortest.
    """
    settings = rope_types(config).get("longrope")
    if settings is None:
        return
    limit: int = (
        settings.get("original_max_position_embeddings") or config.to_dict()["original_max_position_embeddings"]
    )
    shortest, longest = int(lengths.min()), int(lengths.max())
    if shortest <= limit < longest:
        raise UserError(
            f"a batch has sequences of {shortest} to {longest} tokens, and beyond {limit} the llm's longrope "
            "turns the positions of all of them; set batch_size: 1, or keep sequences shorter"
        )


def check_same_computation(own: PreTrainedConfig, other: PreTrainedConfig, source: str) -> None:
    """Refuse weights that would be computed with in another way than they were trained for; shapes tell of themselves.

    Raises:
        UserError: names the first setting that differs, with both values.
    """
    ours, theirs = own.to_dict(), other.to_dict()
    for name in COMPUTATION:
        if name in ours and name in theirs and ours[name] != theirs[name]:
            raise UserError(
                f"{source}: {name} is {theirs[name]} there, but {ours[name]} in this config; write its value into the "
                "settings of the part that is taken from it"
            )


def config_of(settings: dict[str, Any]) -> PreTrainedConfig:
    """A transformers config from its `model_type` and values.

    Raises:
        UserError: there is no `model_type`, transformers has none of that name, or a value is none it can have.
    """
    if "model_type" not in settings:
        raise UserError(f"a part of the backbone needs a `model_type` beside {', '.join(settings)}, for example llama")
    try:
        return AutoConfig.for_model(**settings)
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        reason = " ".join(str(error).split()).partition(". Should contain")[0][:300]
        raise UserError(f"a config of model_type {settings['model_type']} cannot be made: {reason}") from error
