"""`Backbone`: transformers' LLaVA-NeXT, as the rest of the project sees it.

It encodes tiles, embeds text, scores answers and generates. Which granularity the LLM is shown is decided elsewhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from transformers.configuration_utils import PreTrainedConfig
from transformers.generation.logits_process import LogitsProcessorList

from lit_avg.llava_next.answer_logprobs import answer_states, score
from lit_avg.llava_next.exact_buffers import ExactBuffers
from lit_avg.llava_next.generation import STEP, Generation, NonFiniteWatch, groups_of_like_length, listed
from lit_avg.llava_next.hf_model import (
    LLM_LAYERS,
    check_head,
    composed,
    is_filled_later,
    llm_left_out,
    settings_hash,
    weights_of_whole,
    whole,
    whole_config,
)
from lit_avg.llava_next.llm_configs import check_attention, check_lengths, check_same_computation, config_of
from lit_avg.llava_next.llm_input import LlmInput
from lit_avg.llava_next.lora import (
    LoRA,
    adapted_layers,
    adapter_modules,
    add_adapter,
    is_of_adapter,
    merge_adapter,
    plain_name,
)
from lit_avg.llava_next.packed_attention import PACKED_ATTENTION
from lit_avg.llava_next.pretrained_weights import NAMES, FileWeights, check_type, part_weights
from lit_avg.llava_next.vision_encoder import hidden_state, unread_parameters
from lit_avg.utils.distributed import shares_weights_with_ranks
from lit_avg.utils.errors import UserError
from lit_avg.utils.hub import weights_folder
from lit_avg.utils.mapped_weights import fill, to_memory
from lit_avg.utils.weight_io import check_fit

BackbonePart = Literal["vision_encoder", "connector", "llm", "llm_adapter"]

BACKBONE_PARTS: tuple[BackbonePart, ...] = ("vision_encoder", "connector", "llm", "llm_adapter")
"""In the order of the data's way through them; not every backbone has the last."""

ORIGINAL_PARTS: tuple[BackbonePart, ...] = ("vision_encoder", "connector", "llm")
"""Those that every LLaVA-NeXT has."""

FeatureSelection = Literal["default", "full"]
"""transformers' `vision_feature_select_strategy`: `default` leaves out the first token, CLS; `full` keeps all."""


@dataclass
class AnswerTokens:
    """What the LLM makes of each of the A answer tokens of a batch."""

    log_prob: Tensor  # (A,) float32
    correct: Tensor  # (A,) bool: the token is the most probable one
    question: Tensor  # (A,) the question it answers


class Backbone(ExactBuffers):
    """LLaVA-NeXT: vision encoder, connector and LLM.

    Args:
        vision_encoder: transformers config of the encoder with its `model_type`; its weights are random until
            `load_part` fetches them.
        llm: the same for the LLM.
        pretrained: hub id or folder of a whole LLaVA-NeXT, weights included, instead of the two.
        vision_feature_layer: which hidden state of the encoder is read, -2 being the second to last layer; None takes
            what `pretrained` says, or else -2.
        vision_feature_select_strategy: whether its first token, CLS, is left out (`default`) or there is none (`full`);
            None takes what `pretrained` says, or else `full` for an encoder of `ENCODERS_WITHOUT_CLS`.
        attention: transformers' `attn_implementation`: `sdpa`, `eager`, or `flash_attention_2`, which takes no packed
            questions.
        gradient_checkpointing: recompute activations in the backward pass instead of storing them.
        lora: an adapter of the LLM, which is trained in its stead; `add_adapter` adds it once all weights are there.

    Raises:
        UserError: neither or both of a whole model and its two halves are given, the whole one is not whole, its LLM is
            none that works here, or there is no such attention or layer.
    """

    exact: ClassVar[tuple[str, ...]] = ("inv_freq",)

    def __init__(
        self,
        vision_encoder: dict[str, Any] | None = None,
        llm: dict[str, Any] | None = None,
        pretrained: str | None = None,
        vision_feature_layer: int | None = None,
        attention: str = "sdpa",
        gradient_checkpointing: bool = False,
        vision_feature_select_strategy: FeatureSelection | None = None,
        lora: LoRA | None = None,
    ) -> None:
        super().__init__()
        check_attention(attention)
        self.hash_of_origin = dict[BackbonePart, Callable[[], str]]()  # of parts as they lay where they were taken from
        self.pretrained = pretrained
        if pretrained is not None and vision_encoder is None and llm is None:
            self.hf, weights = whole(pretrained, attention)
            if weights is not None:
                self.hash_of_origin |= {part: cache(weights.part(part).sha256) for part in ORIGINAL_PARTS}
        elif pretrained is None and vision_encoder is not None and llm is not None:
            self.hf = composed(config_of(vision_encoder), config_of(llm), attention)
        else:
            raise UserError("a backbone is either `pretrained` as a whole or made of a `vision_encoder` and an `llm`")
        self.attention, self.lora = attention, lora
        self.llm_not_loaded = llm_left_out()  # its SHA-256; None where there is an LLM
        if self.llm_not_loaded is not None:
            self.hf.lm_head = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]  nothing will be asked of it
        if vision_feature_layer is not None:
            _check_layer(vision_feature_layer, cast(PreTrainedConfig, self.hf.config.vision_config))
            self.hf.config.vision_feature_layer = vision_feature_layer
        if vision_feature_select_strategy is not None:
            self.hf.config.vision_feature_select_strategy = vision_feature_select_strategy
        if attention in PACKED_ATTENTION:
            self.hf.model.language_model.set_attn_implementation(PACKED_ATTENTION[attention])
        self.gradient_checkpointing = gradient_checkpointing
        if gradient_checkpointing:
            self.hf.gradient_checkpointing_enable({"use_reentrant": False})
            self.hf.disable_input_require_grads()  # or a frozen encoder would hold, and go back through, all its layers
        if not is_filled_later():
            device = torch.empty(0).device
            for parameter in self.hf.parameters():
                to_memory(parameter, device)

    @property
    def llm_config(self) -> PreTrainedConfig:
        """transformers' config of the LLM."""
        return cast(PreTrainedConfig, self.hf.config.text_config)

    @property
    def width(self) -> int:
        """D, the width of the LLM's embeddings."""
        return self.llm_config.hidden_size

    @property
    def settings(self) -> dict[str, str]:
        """What, beside weights, decides what it computes; long things by their hash."""
        config = self.hf.config
        return {
            "vision encoder": settings_hash(cast(PreTrainedConfig, config.vision_config)),
            "llm": settings_hash(self.llm_config),
            "feature layer": str(config.vision_feature_layer),
            "feature selection": str(config.vision_feature_select_strategy),
            "attention": self.attention,
            **({} if self.lora is None else {"llm adapter": str(self.lora.scale)}),
        }

    @property
    def end_tokens(self) -> list[int]:
        """The tokens that end an answer, by the model's generation config; a composed model has its LLM's."""
        ends = cast(int | list[int] | None, self.hf.generation_config.eos_token_id)
        return listed(ends)

    @property
    def positions(self) -> int | None:
        """How many tokens the LLM was made to read, if its config says."""
        return cast(int | None, cast(Any, self.hf.config).text_config.to_dict().get("max_position_embeddings"))

    @property
    def grid_side(self) -> int:
        """Rows, and columns, of the tokens that the encoder makes of a tile."""
        config = cast(Any, self.hf.config).vision_config
        return config.image_size // config.patch_size

    @property
    def image_newline(self) -> Tensor:
        """The learned token that ends each row of a plane, (D,)."""
        return self.hf.model.image_newline

    def modules_of(self, part: BackbonePart) -> list[nn.Module]:
        """The modules of one part; the connector's newline token is a bare parameter and not among them."""
        hf = self.hf.model
        if part == "vision_encoder":
            return [hf.vision_tower]
        if part == "llm_adapter":
            return adapter_modules(hf.language_model)
        return [hf.multi_modal_projector] if part == "connector" else [hf.language_model, self.hf.lm_head]

    def layers(self) -> list[nn.Module]:
        """The layers of encoder and LLM, in the order of the data's way through them."""
        encoder = cast(nn.ModuleList, cast(nn.Module, self.hf.model.vision_tower.encoder).layers)
        return [*encoder, *cast(nn.ModuleList, self.hf.model.language_model.layers)]

    def parameters_of(self, part: BackbonePart) -> list[nn.Parameter]:
        """The parameters of one part. The newline token belongs to the connector, the LM head to the LLM."""
        named = [pair for module in self.modules_of(part) for pair in module.named_parameters()]
        parameters = [
            parameter for name, parameter in named if not is_of_adapter(name)
        ]  # an LLM's has a part of its own
        if part == "connector":
            parameters.append(self.hf.model.image_newline)
        return list(dict.fromkeys(parameters))  # an LM head tied to the embeddings counts once

    def unread_parameters(self) -> list[nn.Parameter]:
        """Those of the vision encoder behind the layer that is read."""
        config = cast(PreTrainedConfig, self.hf.config.vision_config)
        layer = cast(int, self.hf.config.vision_feature_layer)
        return list(unread_parameters(self.hf.model.vision_tower, config.num_hidden_layers, layer))

    def add_adapter(self) -> None:
        """Add a fresh adapter, which changes nothing, where there is to be one and there is none yet.

        Raises:
            UserError: one of its targets is no layer of the LLM.
        """
        if self.lora is not None and self.llm_not_loaded is None and not adapted_layers(self.hf.model.language_model):
            add_adapter(self.hf.model.language_model, self.lora)

    def merge_adapter(self) -> None:
        """Let the LLM alone be what it was with its adapter."""
        if adapted_layers(self.hf.model.language_model):
            merge_adapter(self.hf.model.language_model)
        self.lora = None

    def load_part(self, part: Literal["vision_encoder", "llm"], source: str) -> None:
        """Copy the weights of a pretrained encoder or LLM.

        Args:
            part: which half.
            source: hub id or folder in transformers' format.

        Raises:
            UserError: nothing can be loaded from there, it has other shapes than this backbone, computes otherwise, or
                is not finite.
        """
        where = f"pretrained_parts: {source}"
        own = self.hf.model.vision_tower if part == "vision_encoder" else self.hf.model.language_model
        folder = weights_folder(f"pretrained_parts: {part}", source)
        check_type(folder, own.config.model_type, where)
        config = type(own.config).from_pretrained(folder)
        check_same_computation(own.config, config, where)
        weights = part_weights(folder, part)
        self._take(part, weights.with_head(config.tie_word_embeddings) if part == "llm" else weights, where)

    def load_part_of_whole(self, part: BackbonePart, source: str) -> None:
        """Copy the weights of one part of a pretrained LLaVA-NeXT; arguments and errors as in `load_part`."""
        folder = weights_folder("pretrained", source)
        config, own = whole_config(folder, source), self.hf.config
        for theirs, ours in ((config.vision_config, own.vision_config), (config.text_config, own.text_config)):
            check_same_computation(cast(PreTrainedConfig, ours), cast(PreTrainedConfig, theirs), source)
        self._take(part, weights_of_whole(folder).with_head(config.tie_word_embeddings).part(part), source)

    def _take(self, part: BackbonePart, weights: FileWeights, source: str) -> None:
        """Fill a part, whose layers may have an adapter, with weights that have to be exactly its own."""
        self.hash_of_origin[part] = cache(weights.sha256)
        if part == "llm" and self.llm_not_loaded is not None:
            weights = weights.without(LLM_LAYERS)
        elif part == "llm" and self.hf.lm_head.weight is self.hf.get_input_embeddings().weight:
            check_head(weights, source)
        here = {plain_name(name): name for name in self.hf.state_dict()}
        elsewhere = {name for name in here.values() if is_of_adapter(name) or not name.startswith(NAMES[part])}
        named = {here.get(name, name): tensor for name, tensor in weights.tensors.items()}
        check_fit(self.hf, named, source, "this config describes", elsewhere, weights.files)
        fill(self.hf, named)

    def encode(self, pixel_values: Tensor) -> Tensor:
        """Tiles (tiles, 3, S, S) to visual tokens in the LLM's embedding space, (tiles, finest tokens, D).

        A batch without any tile still runs the encoder on an empty one, so that under a distributed strategy every
        rank takes part in every collective; the result is empty and its gradients are zero. Bytes are refused.
        """
        if not pixel_values.is_floating_point():
            raise TypeError(
                f"tiles are {pixel_values.dtype}; normalise them by `on_after_batch_transfer` of their data"
            )
        hf = self.hf.model
        tiles = pixel_values if len(pixel_values) else pixel_values.new_zeros(1, *pixel_values.shape[1:])
        layer = cast(int, self.hf.config.vision_feature_layer)
        hidden = hidden_state(hf.vision_tower, tiles.to(hf.vision_tower.dtype), layer)
        if self.hf.config.vision_feature_select_strategy == "default":
            hidden = hidden[:, 1:]  # without CLS
        return hf.multi_modal_projector(hidden)[: len(pixel_values)]

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token ids (…) to embeddings (…, D); negative ids, which stand for images, to whatever token 0 has."""
        return self.hf.model.language_model.get_input_embeddings()(input_ids.clamp(min=0))

    def answer_tokens(self, embeddings: Tensor, rows: LlmInput) -> AnswerTokens:
        """Score the answer tokens of rows (B, S, D); the LLM's head and last layer see only what predicts one.

        Raises:
            UserError: rows of several questions, and an attention that takes no packed rows.
        """
        self._require_llm()
        hidden = answer_states(self.hf.model.language_model, embeddings, rows, self.gradient_checkpointing)
        log_prob, best = score(self.hf.lm_head, hidden, rows.answer_token)
        return AnswerTokens(log_prob, best == rows.answer_token, rows.answer_question)

    def _require_llm(self) -> None:
        """Refuse to let a backbone speak whose LLM was left out."""
        if self.llm_not_loaded is not None:
            raise UserError(
                "this run has its feedback from a store and no LLM; nothing can be scored or answered by it"
            )

    @torch.no_grad()
    def generate(self, prompts: Sequence[Tensor], max_new_tokens: int, generation: Generation | None = None) -> Tensor:
        """Continue each prompt, given by its embeddings (S, D); greedily, those of like length in one batch.

        Where ranks share the weights, all are in one batch, for each rank has to compute as many times as the others.

        Args:
            prompts: B of them.
            max_new_tokens: at most, whatever the generation config says.
            generation: sampling, end tokens, streaming; by default greedy up to an end token.

        Returns:
            (B, at most max_new_tokens) token ids. A row that ends early keeps its end token and is filled up as in
            `Generation.filling`.

        Raises:
            UserError: the generation config asks for more than one continuation of a prompt, or the logits are not
                finite.
        """
        self._require_llm()
        generation = generation or Generation()
        groups = [list(range(len(prompts)))]
        if not (generation.needs_one_batch(self.hf.generation_config) or shares_weights_with_ranks(self)):
            groups = groups_of_like_length([len(prompt) for prompt in prompts], STEP * max_new_tokens)
        answers = [self.continued([prompts[place] for place in group], max_new_tokens, generation) for group in groups]
        longest = max(answer.shape[1] for answer in answers)
        filling = generation.filling(self.hf.generation_config)
        padded = [nn.functional.pad(answer, (0, longest - answer.shape[1]), value=filling) for answer in answers]
        order = torch.tensor([place for group in groups for place in group], device=padded[0].device)
        return torch.cat(padded)[order.argsort()]

    def continued(self, prompts: Sequence[Tensor], max_new_tokens: int, generation: Generation) -> Tensor:
        """`generate` with all prompts in one batch, padded on the left to the longest."""
        check_lengths(self.llm_config, torch.tensor([len(prompt) for prompt in prompts]))
        longest = max(len(prompt) for prompt in prompts)
        embeddings = torch.stack([nn.functional.pad(prompt, (0, 0, longest - len(prompt), 0)) for prompt in prompts])
        mask = torch.stack([torch.arange(longest) >= longest - len(prompt) for prompt in prompts])
        generate = cast(Callable[..., Tensor], self.hf.generate)  # pyright: ignore[reportAttributeAccessIssue]  transformers' mixin
        watch = NonFiniteWatch()
        answers = generate(
            inputs_embeds=embeddings,
            attention_mask=mask.to(embeddings.device, torch.long),
            generation_config=generation.settings(max_new_tokens),
            stopping_criteria=generation.stopping_criteria,
            streamer=generation.streamer,
            logits_processor=LogitsProcessorList([watch]),
            synced_gpus=shares_weights_with_ranks(self),  # goes on until the longest answer of all ranks ends
        )
        watch.check()
        return answers


def _check_layer(layer: int, encoder: PreTrainedConfig) -> None:
    depth: int = encoder.num_hidden_layers
    if not -depth - 1 <= layer <= depth:
        raise UserError(
            f"vision_feature_layer is {layer}, but this encoder has {depth} layers; it must be from 0, what goes into "
            f"the first, to {depth}, or counted from the end, from {-depth - 1} to -1"
        )
