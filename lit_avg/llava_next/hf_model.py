"""transformers' LLaVA-NeXT, made whole from a checkpoint or composed of two configs."""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from pickle import UnpicklingError
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoConfig, LlavaNextConfig, LlavaNextForConditionalGeneration
from transformers.configuration_utils import PreTrainedConfig

from lit_avg.llava_next.llm_configs import check_llm
from lit_avg.utils.errors import UserError
from lit_avg.utils.finite import check_weights
from lit_avg.utils.hashing import hash_of_json
from lit_avg.utils.hub import check_source
from lit_avg.utils.weight_io import named_differences

ENCODERS = ("clip_vision_model", "siglip_vision_model")
"""Model types that a vision encoder may have: those whose layers and norms `unread` and `vision_layers` know."""

ENCODERS_WITHOUT_CLS = ("siglip_vision_model",)
"""Those of them whose tokens are all patches."""


_llm_left_out: ContextVar[str | None] = ContextVar("_llm_left_out", default=None)

LLM_LAYERS = ("model.language_model.layers.", "lm_head.")
"""How the names of those tensors begin that a backbone without its LLM does not have."""


@contextmanager
def without_llm(sha256: str) -> Generator[None]:
    """Backbones made here have no LLM but its token embeddings, which is all that a router needs of it.

    Args:
        sha256: of the LLM that is left out, as `lit_avg.training.handover` tells it.
    """
    token = _llm_left_out.set(sha256)
    try:
        yield
    finally:
        _llm_left_out.reset(token)


def llm_left_out() -> str | None:
    """SHA-256 of the LLM, where it is to be left out."""
    return _llm_left_out.get()


def whole(source: str, attention: str) -> LlavaNextForConditionalGeneration:
    """Every tensor from `source`; transformers by itself would only warn that some are random.

    Raises:
        UserError: it cannot be loaded, is not what its config says, or not finite.
    """
    check_source("pretrained", source, "config.json")
    try:
        config = LlavaNextConfig.from_pretrained(source)
        llm = cast(PreTrainedConfig, config.text_config)
        check_encoder(cast(PreTrainedConfig, config.vision_config))
        check_llm(llm)
        if llm_left_out() is not None:
            llm.num_hidden_layers = 0
        hf, report = cast(
            tuple[LlavaNextForConditionalGeneration, dict[str, Any]],
            LlavaNextForConditionalGeneration.from_pretrained(
                source,
                config=config,
                dtype=torch.get_default_dtype(),  # what the run computes in, not what the file has
                attn_implementation=_of_parts(attention),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            ),
        )
    except UserError:
        raise
    except (OSError, RuntimeError, ValueError, UnpicklingError) as error:
        raise UserError(f"{source} cannot be loaded as a LLaVA-NeXT: {' '.join(str(error).split())[:300]}") from error
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if llm_left_out() is not None:
        unexpected = [name for name in unexpected if "language_model." not in name]
    if missing or unexpected:
        raise UserError(f"{source}{named_differences(missing, unexpected)}; it is not what its config.json describes")
    if mismatched := sorted(report["mismatched_keys"]):
        name, found, expected = mismatched[0]
        raise UserError(f"{source}: {name} is {tuple(found)}, but {tuple(expected)} by its config.json")
    check_weights(hf.state_dict(), source)
    return hf


def composed(
    vision_config: PreTrainedConfig, text_config: PreTrainedConfig, attention: str
) -> LlavaNextForConditionalGeneration:
    """Random weights; the connector is initialised as torch does, which is how LLaVA does it.

    Raises:
        UserError: a part is none that works here, or a config describes no model.
    """
    check_encoder(vision_config)
    check_llm(text_config)
    if llm_left_out() is not None:
        text_config.num_hidden_layers = 0
    config = LlavaNextConfig(
        vision_config=vision_config,
        text_config=text_config,
        vision_feature_layer=-2,
        vision_feature_select_strategy="full" if vision_config.model_type in ENCODERS_WITHOUT_CLS else "default",
        image_token_index=text_config.vocab_size,
        tie_word_embeddings=text_config.tie_word_embeddings,
    )
    try:
        hf = LlavaNextForConditionalGeneration._from_config(  # pyright: ignore[reportPrivateUsage]  the way to choose an attention
            config, attn_implementation=_of_parts(attention)
        )
    except (ValueError, AssertionError, KeyError) as error:  # whatever transformers finds only when it builds
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(f"the backbone's configs describe no model: {reason}") from error
    hf.model.multi_modal_projector.linear_1.reset_parameters()
    hf.model.multi_modal_projector.linear_2.reset_parameters()
    return hf


def check_encoder(config: PreTrainedConfig) -> None:
    """Refuse a vision encoder whose hidden states are not read here.

    Raises:
        UserError: it is of another type.
    """
    if config.model_type not in ENCODERS:
        raise UserError(
            f"vision_encoder: model_type {config.model_type} is none that can be read here; "
            f"choose one of {', '.join(ENCODERS)}"
        )


def _of_parts(attention: str) -> dict[str, str]:
    """How each part attends, for transformers; an LLM that has no `sdpa` of its own is given one afterwards."""
    return {"": attention, "vision_config": attention, "text_config": "eager" if attention == "sdpa" else attention}


def settings_hash(config: PreTrainedConfig) -> str:
    """Names what a part's config says of its computation; its depth, precision and name are told elsewhere."""
    told_elsewhere = ("num_hidden_layers", "dtype", "torch_dtype", "_name_or_path", "transformers_version")
    content = {name: value for name, value in config.to_dict().items() if name not in told_elsewhere}
    return hash_of_json(content, 16)


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


def check_head(own: nn.Module, embeddings: nn.Module, loaded: nn.Module, source: str) -> None:
    """Refuse an LM head of its own for an LLM whose head is its embeddings, which it would overwrite.

    Args:
        own: the LM head.
        embeddings: of the LLM, as they were loaded.
        loaded: the LM head that is to be taken.
        source: where it is from.

    Raises:
        UserError: they are tied here, but not there.
    """
    ours, theirs = cast(Tensor, embeddings.weight), cast(Tensor, loaded.weight)
    if own.weight is ours and not torch.equal(theirs.to(ours), ours):
        raise UserError(
            f"{source} has an LM head of its own, but here it is tied to the embeddings; "
            "set tie_word_embeddings: false in the llm's settings"
        )
