"""transformers' LLaVA-NeXT, made whole from a checkpoint or composed of two configs."""

from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import torch
from accelerate import init_empty_weights
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    GenerationConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextModel,
)
from transformers.configuration_utils import PreTrainedConfig
from transformers.initialization import no_init_weights

from lit_avg.llava_next.llm_configs import check_llm
from lit_avg.llava_next.pretrained_weights import HEAD, check_type, whole_weights
from lit_avg.utils.errors import UserError
from lit_avg.utils.hashing import hash_of_json
from lit_avg.utils.hub import weights_folder
from lit_avg.utils.mapped_weights import fill
from lit_avg.utils.weight_io import check_fit

ENCODERS = ("clip_vision_model", "siglip_vision_model")
"""Model types that a vision encoder may have: those whose layers and norms `unread` and `vision_layers` know."""

ENCODERS_WITHOUT_CLS = ("siglip_vision_model",)
"""Those of them whose tokens are all patches."""


_llm_left_out: ContextVar[str | None] = ContextVar("_llm_left_out", default=None)

LLM_LAYERS = ("model.language_model.layers.", "lm_head.")
"""How the names of those tensors begin that a backbone without its LLM does not have."""


_to_come: ContextVar[frozenset[str] | None] = ContextVar("_to_come", default=None)

DRAWN_AT_MOST = 2**26
"""Weights of a backbone that are drawn although encoder and LLM come from elsewhere."""

WHOLE = frozenset(("vision_encoder", "connector", "llm"))

EMBEDDINGS = "model.language_model.embed_tokens.weight"

GENERATION = "generation_config.json"


@contextmanager
def weights_to_come(parts: Collection[str]) -> Generator[None]:
    """Backbones made here have no memory for what will be filled in, and leave what they read themselves in its files.

    Whoever made them calls `lit_avg.utils.mapped_weights.to_memory` in the end.

    Args:
        parts: those of `BACKBONE_PARTS` that will be filled.
    """
    token = _to_come.set(frozenset(parts))
    try:
        yield
    finally:
        _to_come.reset(token)


def is_filled_later() -> bool:
    """Whether weights may stay in their files."""
    return _to_come.get() is not None


def _parts_to_come() -> frozenset[str]:
    return _to_come.get() or frozenset()


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
    """Every tensor from `source`, as it lies there; transformers by itself would only warn that some are random.

    Raises:
        UserError: it cannot be loaded, is not what its config says, or not finite.
    """
    folder = weights_folder("pretrained", source)
    check_type(folder, "llava_next", f"pretrained: {source}")
    try:
        config = LlavaNextConfig.from_pretrained(folder)
        check_encoder(cast(PreTrainedConfig, config.vision_config))
        check_llm(cast(PreTrainedConfig, config.text_config))
        weights = dict[str, Tensor]() if _parts_to_come() >= WHOLE else whole_weights(folder)
        _untie_if_different(config, weights)
        hf = _empty(config, attention)
        if (folder / GENERATION).is_file():
            hf.generation_config = GenerationConfig.from_pretrained(folder)
    except UserError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{source} cannot be loaded as a LLaVA-NeXT: {' '.join(str(error).split())[:300]}") from error
    if not weights:
        return hf.eval()
    if config.tie_word_embeddings and EMBEDDINGS in weights:
        weights.setdefault(HEAD, weights[EMBEDDINGS])
    if llm_left_out() is not None:
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith(LLM_LAYERS)}
    check_fit(hf, weights, source, "its config.json describes", {HEAD} if llm_left_out() is not None else frozenset())
    fill(hf, weights)
    return hf.eval()


def _untie_if_different(config: LlavaNextConfig, weights: Mapping[str, Tensor]) -> None:
    """As transformers: a head that lies there and is not the embeddings is the head, whatever the config says."""
    if config.tie_word_embeddings and HEAD in weights and EMBEDDINGS in weights:
        config.tie_word_embeddings = torch.equal(weights[HEAD], weights[EMBEDDINGS])
        cast(PreTrainedConfig, config.text_config).tie_word_embeddings = config.tie_word_embeddings


def composed(
    vision_config: PreTrainedConfig, text_config: PreTrainedConfig, attention: str
) -> LlavaNextForConditionalGeneration:
    """Random weights, but for those to come; the connector is initialised as torch does, which is how LLaVA does it.

    Raises:
        UserError: a part is none that works here, or a config describes no model.
    """
    check_encoder(vision_config)
    check_llm(text_config)
    config = LlavaNextConfig(
        vision_config=vision_config,
        text_config=text_config,
        vision_feature_layer=-2,
        vision_feature_select_strategy="full" if vision_config.model_type in ENCODERS_WITHOUT_CLS else "default",
        image_token_index=text_config.vocab_size,
        tie_word_embeddings=text_config.tie_word_embeddings,
    )
    try:
        hf = _empty_if_possible(config, attention) or _made(config, attention)
    except (ValueError, AssertionError, KeyError) as error:  # whatever transformers finds only when it builds
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(f"the backbone's configs describe no model: {reason}") from error
    if "connector" not in _parts_to_come():
        _begin_connector(hf.model)
    return hf


def _empty_if_possible(config: LlavaNextConfig, attention: str) -> LlavaNextForConditionalGeneration | None:
    """A model without memory where nothing but the connector has to be drawn, if that; else None.

    What is drawn before the connector decides what it begins with. So where encoder and LLM are small they are drawn
    although they come from elsewhere, and a run on a laptop begins as it always did.
    """
    come = _parts_to_come()
    if not come >= {"vision_encoder", "llm"}:
        return None
    hf = _empty(config, attention)
    large = sum(parameter.numel() for parameter in hf.parameters()) > DRAWN_AT_MOST
    return hf if large or "connector" in come else None


def _begin_connector(model: LlavaNextModel) -> None:
    if torch.empty(0).is_meta:  # what is only described has no values
        return
    projector = model.multi_modal_projector
    for linear in (projector.linear_1, projector.linear_2):
        if linear.weight.is_meta:
            linear.to_empty(device="cpu")
        linear.reset_parameters()
    if model.image_newline.is_meta:
        width = model.image_newline.shape[0]
        model.image_newline = nn.Parameter(torch.randn(width, dtype=model.image_newline.dtype) * width**-0.5)


def _empty(config: LlavaNextConfig, attention: str) -> LlavaNextForConditionalGeneration:
    """A model whose parameters have no memory, so that nothing is drawn; its buffers are what they are to be."""
    with torch.random.fork_rng(devices=[]), no_init_weights(), init_empty_weights(include_buffers=False):
        hf = _made(config, attention)
    hf.tie_weights()
    return hf


def _made(config: LlavaNextConfig, attention: str) -> LlavaNextForConditionalGeneration:
    if llm_left_out() is not None:
        cast(PreTrainedConfig, config.text_config).num_hidden_layers = 0
    return LlavaNextForConditionalGeneration._from_config(  # pyright: ignore[reportPrivateUsage]  the way to choose an attention
        config, attn_implementation=_of_parts(attention), dtype=torch.get_default_dtype()
    )


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


def check_head(embeddings: Tensor, head: Tensor, source: str) -> None:
    """Refuse an LM head of its own for an LLM whose head is its embeddings, which it would overwrite.

    Args:
        embeddings: that are to be taken.
        head: that is to be taken.
        source: where they are from.

    Raises:
        UserError: they differ.
    """
    if not torch.equal(embeddings, head):
        raise UserError(
            f"{source} has an LM head of its own, but here it is tied to the embeddings; "
            "set tie_word_embeddings: false in the llm's settings"
        )
