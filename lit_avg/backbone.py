"""`Backbone`: the only file that knows transformers' LLaVA-NeXT.

It encodes tiles, embeds text, scores answers and generates. Which granularity the LLM is shown is decided elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, LlavaNextConfig, LlavaNextForConditionalGeneration
from transformers.configuration_utils import PreTrainedConfig

from lit_avg.sequences import LlmInput

BackbonePart = Literal["vision_encoder", "connector", "llm"]


@dataclass
class AnswerTokens:
    """What the LLM makes of each of the A answer tokens of a batch."""

    log_prob: Tensor  # (A,) float32
    correct: Tensor  # (A,) bool: the token is the most probable one
    question: Tensor  # (A,) the question it answers


class Backbone(nn.Module):
    """LLaVA-NeXT: vision encoder, connector and LLM.

    Args:
        vision_encoder: hub id or folder of a pretrained encoder, or a transformers config (with its `model_type`) for
            random weights.
        llm: the same for the LLM.
        pretrained: hub id or folder of a whole LLaVA-NeXT; then `vision_encoder` and `llm` are not given.
        vision_feature_layer: which hidden state of the encoder is read; -2 is the second to last layer.
        attention: transformers' `attn_implementation`.
        gradient_checkpointing: recompute activations in the backward pass instead of storing them.

    Raises:
        ValueError: neither or both of a whole model and its two halves are named.
    """

    def __init__(
        self,
        vision_encoder: str | dict[str, Any] | None = None,
        llm: str | dict[str, Any] | None = None,
        pretrained: str | None = None,
        vision_feature_layer: int = -2,
        attention: str = "sdpa",
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if pretrained is not None and vision_encoder is None and llm is None:
            self.hf = LlavaNextForConditionalGeneration.from_pretrained(pretrained, attn_implementation=attention)
            self.hf.config.vision_feature_layer = vision_feature_layer
        elif pretrained is None and vision_encoder is not None and llm is not None:
            self.hf = _composed(vision_encoder, llm, vision_feature_layer, attention)
        else:
            raise ValueError("a backbone is either `pretrained` as a whole or made of a `vision_encoder` and an `llm`")
        if gradient_checkpointing:
            self.hf.gradient_checkpointing_enable({"use_reentrant": False})

    @property
    def width(self) -> int:
        """D, the width of the LLM's embeddings."""
        return self.hf.config.text_config.hidden_size

    @property
    def image_newline(self) -> Tensor:
        """The learned token that ends each row of a plane, (D,)."""
        return self.hf.model.image_newline

    def modules_of(self, part: BackbonePart) -> list[nn.Module]:
        """The modules of one part; the connector's newline token is a bare parameter and not among them."""
        hf = self.hf.model
        if part == "vision_encoder":
            return [hf.vision_tower]
        return [hf.multi_modal_projector] if part == "connector" else [hf.language_model, self.hf.lm_head]

    def parameters_of(self, part: BackbonePart) -> list[nn.Parameter]:
        """The parameters of one part. The newline token belongs to the connector, the LM head to the LLM."""
        parameters = [parameter for module in self.modules_of(part) for parameter in module.parameters()]
        if part == "connector":
            parameters.append(self.hf.model.image_newline)
        return list(dict.fromkeys(parameters))  # an LM head tied to the embeddings counts once

    def encode(self, pixel_values: Tensor) -> Tensor:
        """Tiles (tiles, 3, S, S) to visual tokens in the LLM's embedding space, (tiles, finest tokens, D).

        A batch without any tile still runs the encoder on an empty one, so that under a distributed strategy every
        rank takes part in every collective; the result is empty and its gradients are zero.
        """
        hf = self.hf.model
        tiles = pixel_values if len(pixel_values) else pixel_values.new_zeros(1, *pixel_values.shape[1:])
        outputs = hf.vision_tower(tiles.to(hf.vision_tower.dtype), output_hidden_states=True)
        hidden = outputs.hidden_states[self.hf.config.vision_feature_layer]
        if self.hf.config.vision_feature_select_strategy == "default":
            hidden = hidden[:, 1:]  # without CLS
        return hf.multi_modal_projector(hidden)[: len(pixel_values)]

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token ids (…) to embeddings (…, D); negative ids, which stand for images, to whatever token 0 has."""
        return self.hf.model.language_model.get_input_embeddings()(input_ids.clamp(min=0))

    def answer_tokens(self, embeddings: Tensor, rows: LlmInput) -> AnswerTokens:
        """Score the answer tokens of rows (B, S, D); the LM head sees only the positions that predict one."""
        hidden = self.hf.model.language_model(
            inputs_embeds=embeddings,
            attention_mask=rows.attention_mask(),
            position_ids=rows.position_ids,
            use_cache=False,
        ).last_hidden_state
        logits = self.hf.lm_head(hidden[rows.answer_row, rows.answer_from]).float()  # (A, V)
        log_prob = -nn.functional.cross_entropy(logits, rows.answer_token, reduction="none")
        return AnswerTokens(log_prob, logits.argmax(dim=1) == rows.answer_token, rows.answer_question)

    @torch.no_grad()
    def generate(self, prompts: Sequence[Tensor], max_new_tokens: int, eos_token_id: int, pad_token_id: int) -> Tensor:
        """Greedy continuation of each prompt (its embeddings, (S, D)): (B, at most max_new_tokens) token ids."""
        longest = max(len(prompt) for prompt in prompts)
        embeddings = torch.stack([nn.functional.pad(prompt, (0, 0, longest - len(prompt), 0)) for prompt in prompts])
        mask = torch.stack([torch.arange(longest) >= longest - len(prompt) for prompt in prompts])
        generated = self.hf.generate(
            inputs_embeds=embeddings,
            attention_mask=mask.to(embeddings.device, torch.long),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=eos_token_id,
            pad_token_id=pad_token_id,
        )
        return cast(Tensor, generated)


def _composed(
    vision_encoder: str | dict[str, Any], llm: str | dict[str, Any], vision_feature_layer: int, attention: str
) -> LlavaNextForConditionalGeneration:
    """An encoder and an LLM with a fresh connector between them, initialised as torch does (as in LLaVA)."""
    vision_config, text_config = _part_config(vision_encoder, "vision_config"), _part_config(llm, "text_config")
    hf = LlavaNextForConditionalGeneration._from_config(
        LlavaNextConfig(
            vision_config=vision_config,
            text_config=text_config,
            vision_feature_layer=vision_feature_layer,
            image_token_index=text_config.vocab_size,
            tie_word_embeddings=text_config.tie_word_embeddings,
        ),
        attn_implementation=attention,
    )
    for linear in (hf.model.multi_modal_projector.linear_1, hf.model.multi_modal_projector.linear_2):
        linear.reset_parameters()
    if isinstance(vision_encoder, str):
        hf.model.vision_tower = type(hf.model.vision_tower).from_pretrained(
            vision_encoder, attn_implementation=attention
        )
    if isinstance(llm, str):
        causal = AutoModelForCausalLM.from_pretrained(llm, attn_implementation=attention)
        hf.model.language_model, hf.lm_head = causal.model, causal.lm_head
    return hf


def _part_config(source: str | dict[str, Any], part: str) -> PreTrainedConfig:
    """The config of an encoder or an LLM; of a two-tower model such as CLIP, that of its vision half."""
    if isinstance(source, str):
        config = AutoConfig.from_pretrained(source)
    else:
        settings = dict(source)
        config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    return getattr(config, part, config)
