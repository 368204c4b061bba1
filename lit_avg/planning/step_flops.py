"""FLOPs of training on a sample, part by part, from the stage as it is built.

One definition for all parts:

- A matrix product of m x k by k x n is 2mkn FLOPs. A weight matrix is used once per token, so a part's layers take
  twice the number of their matrices' elements per token: all three of a gated feed-forward, and adapters, as they lie.
- Attention takes 4 x S^2 x (heads x head size) per layer and sequence of S tokens: the whole square, of which a fused
  causal kernel does about half. The LM head counts where an answer token is predicted; norms, activations and the
  optimiser do not count.
- Going back through a part takes as much as its forward pass for the gradients of what goes in, and attention twice;
  the gradients of its weights as much again, for the share of them that is trained. What is recomputed counts once
  more as a whole; of most layers torch leaves out the last product, so that a step is a few percent cheaper.
- Every sample is as long as it is: padding counts nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from lit_avg.llava_next.llm_configs import LlmShape
from lit_avg.planning.workload import Workload
from lit_avg.routing.router import GranularityRouter
from lit_avg.stages.base import Stage
from lit_avg.stages.gumbel import GumbelRouterTuning
from lit_avg.stages.multi_granularity import MultiGranularityTuning
from lit_avg.stages.rglf import RGLF

FlopPart = Literal["vision encoder", "connector", "llm", "head", "router"]


@dataclass(frozen=True)
class PartFlops:
    """FLOPs of one part for a sample, on average."""

    forward: float
    backward: float = 0.0
    recomputed: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return self.forward + self.backward + self.recomputed

    def __add__(self, other: "PartFlops") -> "PartFlops":
        return PartFlops(
            self.forward + other.forward, self.backward + other.backward, self.recomputed + other.recomputed
        )


@dataclass(frozen=True)
class Matrices:
    """Elements of a part's weight matrices, and the share of them that is trained."""

    elements: int
    trained: float

    @staticmethod
    def of(modules: Iterable[nn.Module]) -> "Matrices":
        """Those of some modules; embeddings are looked up, not multiplied."""
        inner = [module for outer in modules for module in outer.modules() if not isinstance(module, nn.Embedding)]
        own = {id(weight): weight for module in inner for weight in module.parameters(recurse=False)}
        weights = [weight for weight in own.values() if weight.dim() > 1]
        elements = sum(weight.numel() for weight in weights)
        trained = sum(weight.numel() for weight in weights if weight.requires_grad)
        return Matrices(elements, trained / elements if elements else 0.0)


@dataclass(frozen=True)
class ModelFlops:
    """Forward FLOPs of each part; built from a stage, it needs no weights."""

    encoder_layers: int
    encoder_width: int
    patches: Matrices  # what makes tokens of them
    encoder: Matrices
    connector: tuple[Matrices, Matrices]
    llm: Matrices
    llm_attention: int  # layers x heads x head size
    head: Matrices
    router: GranularityRouter
    finest: int
    slots: int
    averaged: bool  # the router pools queries, keys and values instead of reading the coarser levels
    without_cls: bool

    @staticmethod
    def of(stage: Stage) -> "ModelFlops":
        """Of a stage with its model."""
        model, hf = stage.model, stage.model.backbone.hf
        encoder = cast(PreTrainedModel, hf.model.vision_tower)
        unread = {id(weight) for weight in model.backbone.unread_parameters()}
        read = [layer for layer in layers_of(encoder) if id(next(layer.parameters())) not in unread]
        connector = hf.model.multi_modal_projector
        shape = LlmShape.of(model.backbone.llm_config)
        return ModelFlops(
            encoder_layers=len(read),
            encoder_width=encoder.config.hidden_size,
            patches=Matrices.of(module for module in encoder.modules() if isinstance(module, nn.Conv2d)),
            encoder=Matrices.of(read),
            connector=(Matrices.of([connector.linear_1]), Matrices.of([connector.linear_2])),
            llm=Matrices.of(layers_of(cast(PreTrainedModel, hf.model.language_model))),
            llm_attention=shape.num_hidden_layers * shape.num_attention_heads * shape.head_dim,
            head=Matrices.of([hf.lm_head]),
            router=model.router,
            finest=model.granularities.finest,
            slots=model.granularities.router_slots + model.router.instruction_tokens,
            averaged=model.scaler.pooling == "average",
            without_cls=hf.config.vision_feature_select_strategy == "full",
        )

    @property
    def encoder_attention(self) -> float:
        """Of the encoder, for a tile."""
        return 4 * self.encoder_layers * self.encoder_width * (self.finest + (not self.without_cls)) ** 2

    @property
    def encoder_products(self) -> float:
        """The rest of its layers, for a tile."""
        return 2 * self.encoder.elements * (self.finest + (not self.without_cls))

    @property
    def patch_products(self) -> float:
        """What comes before them, for a tile."""
        return 2 * self.patches.elements * self.finest

    @property
    def tile(self) -> float:
        """Of encoder and connector, for a tile."""
        connector = 2 * sum(part.elements for part in self.connector) * self.finest
        return self.patch_products + self.encoder_products + self.encoder_attention + connector

    def llm_attention_over(self, lengths: NDArray[np.int64]) -> float:
        """Of the LLM, for sequences of so many tokens (n,), on average."""
        return float(4 * self.llm_attention * (lengths.astype(float) ** 2).mean())

    def router_for(self, tiles: float) -> float:
        """Of the router, for a question about an image of so many tiles."""
        text = self.router.instruction_tokens
        read = {"in_proj_weight": self.finest + text if self.averaged else self.slots}
        named = [
            (name.rpartition(".")[2], weight) for name, weight in self.router.named_parameters() if weight.dim() > 1
        ]
        products = sum(2 * weight.numel() * read.get(name, self.slots) for name, weight in named)
        width = next(weight.shape[1] for name, weight in named if name == "in_proj_weight")
        pairs = self.slots * tiles if self.router.attention == "tiles" else self.slots**2  # of a tile
        return tiles * (products + 4 * width * pairs)


def layers_of(model: PreTrainedModel) -> list[nn.Module]:
    """The layers of an encoder or LLM."""
    holder = cast(nn.Module, getattr(model, "encoder", model))
    return list(cast(nn.ModuleList, holder.layers))


def training_flops(stage: Stage, work: Workload) -> dict[FlopPart, PartFlops]:
    """FLOPs of training on a sample, on average.

    Args:
        stage: with its model, on whatever device, parts frozen as they will be.
        work: its samples.
    """
    model = ModelFlops.of(stage)
    trained = stage.trained_parts
    levels, counted = _levels(stage, work)
    through_llm = bool({"vision_encoder", "connector", "llm", "llm_adapter"} & {*trained}) or isinstance(
        stage, GumbelRouterTuning
    )
    back_to_encoder = "vision_encoder" in trained
    tiles = float(work.tiles.mean())
    pictured = float((work.tiles > 0).mean())
    backbone = stage.model.backbone.hf
    flops: dict[FlopPart, PartFlops] = {
        "vision encoder": _part(
            tiles * model.encoder_products,
            tiles * model.encoder_attention,
            model.encoder.trained,
            back_to_encoder,
            recomputes(layers_of(cast(PreTrainedModel, backbone.model.vision_tower))),
        )
        + _part(tiles * model.patch_products, 0.0, model.patches.trained, back_to_encoder, inputs_need_it=False),
        "connector": _connector(model, tiles, "connector" in trained or back_to_encoder, back_to_encoder),
    }
    if stage.model.backbone.llm_not_loaded is None:
        recomputed = recomputes(layers_of(cast(PreTrainedModel, backbone.model.language_model)))
        products = sum(2 * model.llm.elements * float(work.lengths[:, level].mean()) for level in levels)
        attention = sum(model.llm_attention_over(work.lengths[:, level]) for level in levels)
        share = counted / len(levels)
        flops["llm"] = _part(share * products, share * attention, model.llm.trained, through_llm, recomputed)
        head = 2 * model.head.elements * work.answer_tokens * counted
        flops["head"] = _part(head, 0.0, model.head.trained, through_llm)
    if "router" in trained:
        forward = work.sizes.questions * model.router_for(tiles) * (pictured > 0)
        flops["router"] = PartFlops(forward, 2 * forward, forward * bool(stage.model.router.recompute))
    return flops


def evaluation_flops(stage: Stage, work: Workload, routed: bool = True) -> float:
    """FLOPs of judging a sample: the answers at every granularity, and the router where one is trained and asked."""
    model, tiles = ModelFlops.of(stage), float(work.tiles.mean())
    count = len(stage.model.granularities)
    flops = tiles * model.tile
    if stage.model.backbone.llm_not_loaded is None:
        flops += sum(
            2 * model.llm.elements * float(work.lengths[:, level].mean())
            + model.llm_attention_over(work.lengths[:, level])
            for level in range(count)
        )
        flops += 2 * model.head.elements * work.answer_tokens * count
    if routed and "router" in stage.trained_parts:
        flops += work.sizes.questions * model.router_for(tiles)
    return flops


def recomputes(layers: Iterable[nn.Module]) -> bool:
    """Whether layers are computed again in the backward pass."""
    return any(
        isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing and layer.training
        for layer in layers
    )


def total(flops: Mapping[FlopPart, PartFlops]) -> float:
    """Of all parts."""
    return sum(part.total for part in flops.values())


def _levels(stage: Stage, work: Workload) -> tuple[list[int], float]:
    """The levels that the LLM reads a sample at, and how many of them at a step; fewer if some are drawn."""
    count = work.visual.shape[1]
    if isinstance(stage, MultiGranularityTuning):
        return list(range(count)), float(stage.levels_per_step or count)
    if isinstance(stage, RGLF):
        return list(range(count)), float(count)
    if isinstance(stage, GumbelRouterTuning):
        return list(range(count)), 1.0
    return [count - 1], 1.0


def _connector(model: ModelFlops, tiles: float, back: bool, to_encoder: bool) -> PartFlops:
    """Of two products, the second of which is always gone back through."""
    first, second = (2 * tiles * model.finest * part.elements for part in model.connector)
    trained = model.connector[0].trained
    return _part(first, 0.0, trained, back, inputs_need_it=to_encoder) + _part(second, 0.0, trained, back)


def _part(
    products: float,
    attention: float,
    trained: float,
    back: bool,
    recomputed: bool = False,
    inputs_need_it: bool = True,
) -> PartFlops:
    """By the module's definition, from a part's forward pass."""
    forward = products + attention
    if not back:
        return PartFlops(forward)
    backward = products * inputs_need_it + 2 * attention + products * trained
    return PartFlops(forward, backward, forward * recomputed)
