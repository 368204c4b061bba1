"""transformers' LLaVA-NeXT, made whole from a checkpoint or composed of two configs."""

from collections.abc import Collection, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import cast

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import (
    GenerationConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextModel,
)
from transformers.configuration_utils import PreTrainedConfig
from transformers.initialization import no_init_weights

from lit_avg.llava_next.llava_layout import is_llavas, llava_next_config, llava_weights
from lit_avg.llava_next.llm_configs import check_llm
from lit_avg.llava_next.pretrained_weights import HEAD, LLAVA_NEXT, NAMES, FileWeights, check_type, whole_weights
from lit_avg.utils.errors import UserError
from lit_avg.utils.hashing import hash_of_json
from lit_avg.utils.hub import config_folder, weights_folder
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


def whole(source: str, attention: str) -> tuple[LlavaNextForConditionalGeneration, FileWeights | None]:
    """Every tensor from `source`, as it lies there; transformers by itself would only warn that some are random.

    Returns:
        The model, and the weights that it was filled with; None of them where all are to come from elsewhere.

    Raises:
        UserError: it cannot be loaded, is not what its config says, or not finite.
    """
    all_to_come = _parts_to_come() >= WHOLE
    folder = (config_folder if all_to_come else weights_folder)("pretrained", source)
    try:
        config = whole_config(folder, source)
        weights = None if all_to_come else weights_of_whole(folder)
        if weights is not None and config.tie_word_embeddings and weights.head_differs():
            config.tie_word_embeddings = False  # as transformers: what lies there is the head, whatever the config says
            cast(PreTrainedConfig, config.text_config).tie_word_embeddings = False
        hf = _empty(config, attention)
        if (folder / GENERATION).is_file():
            hf.generation_config = GenerationConfig.from_pretrained(folder)
    except UserError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{source} cannot be loaded as a LLaVA-NeXT: {' '.join(str(error).split())[:300]}") from error
    if weights is not None:
        weights = weights.with_head(config.tie_word_embeddings)
        wanted = weights if llm_left_out() is None else weights.without(LLM_LAYERS)
        elsewhere = frozenset[str]() if llm_left_out() is None else frozenset((HEAD,))
        check_fit(hf, wanted.tensors, source, "its config.json describes", elsewhere, weights.files)
        fill(hf, wanted.tensors)
    return hf.eval(), weights


def whole_config(folder: Path, source: str) -> LlavaNextConfig:
    """The config of a LLaVA-NeXT.

    Args:
        folder: where it is.
        source: what the user calls it.

    Raises:
        UserError: it is of another kind of model, or has a part that does not work here.
    """
    if is_llavas(folder):
        config = llava_next_config(folder)
    else:
        check_type(folder, LLAVA_NEXT, f"pretrained: {source}")
        config = LlavaNextConfig.from_pretrained(folder)
    check_encoder(cast(PreTrainedConfig, config.vision_config))
    check_llm(cast(PreTrainedConfig, config.text_config))
    return config


def weights_of_whole(folder: Path) -> FileWeights:
    """The tensors of a LLaVA-NeXT in either layout; errors as in `whole`."""
    return llava_weights(folder) if is_llavas(folder) else whole_weights(folder)


def whole_hashes(source: str) -> dict[str, str]:
    """SHA-256 of each part of a pretrained LLaVA-NeXT; errors as in `whole`."""
    folder = weights_folder("pretrained", source)
    weights = weights_of_whole(folder).with_head(whole_config(folder, source).tie_word_embeddings)
    return {part: weights.part(part).sha256() for part in NAMES}


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


def check_head(weights: FileWeights, source: str) -> None:
    """Refuse an LM head of its own for an LLM whose head is its embeddings, which it would overwrite.

    Args:
        weights: that are to be taken.
        source: where they are from.

    Raises:
        UserError: they differ.
    """
    if weights.head_differs():
        raise UserError(
            f"{source} has an LM head of its own, but here it is tied to the embeddings; "
            "set tie_word_embeddings: false in the llm's settings"
        )
