"""One micro-batch of a stage, forward and backward, on fake tensors: what it takes of a device's memory.

The stage's own code runs, on tensors that have a size and no content. So frozen parts, recomputation, adapters, the
level-by-level backward pass of stage 3 and whatever an LLM's family does in its layers are in the numbers without
being described here. Encoder and LLM are gone through with three layers: the first, one that stands for all between,
and the last.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedModel

from lit_avg.batch import Batch
from lit_avg.feedback.lmm_feedback import Feedback
from lit_avg.planning.live_memory import LiveMemory
from lit_avg.stages.base import Stage
from lit_avg.stages.multi_granularity import MultiGranularityTuning
from lit_avg.stages.rglf import RGLF

Computed = Literal["float32", "bfloat16", "autocast"]
"""What a step is computed in; `autocast` has float32 weights that are cast to bfloat16 where they are used."""

FEW = 4
"""Layers that are gone through one by one."""


@dataclass(frozen=True)
class StepMemory:
    """Bytes at the peak of a micro-batch, without weights and optimiser."""

    peak: int
    by_part: Mapping[str, int]  # by the part that made them, see `lit_avg.planning.live_memory`
    most: Mapping[str, int]  # of each part at its own peak


@dataclass(frozen=True)
class Folded:
    """A stage whose stacks of layers have been made short."""

    stage: Stage
    repeated: Mapping[nn.Module, int]  # layers that stand for several


def fold(stage: Stage) -> Folded:
    """Make a stage's encoder and LLM three layers deep; it is of no other use afterwards."""
    hf = stage.model.backbone.hf
    encoder = cast(PreTrainedModel, hf.model.vision_tower)
    inner = cast(nn.Module, encoder.encoder)
    layers = cast(nn.ModuleList, inner.layers)
    layer = cast(int, hf.config.vision_feature_layer)
    read = layer if layer >= 0 else len(layers) + 1 + layer
    hf.config.vision_feature_layer = read - len(layers) - 1
    repeated = dict[nn.Module, int]()
    if read > FEW:
        inner.layers = nn.ModuleList([layers[0], layers[1], layers[read - 1], *layers[read:]])
        repeated[layers[1]] = read - 2
    llm = cast(nn.Module, hf.model.language_model)
    layers = cast(nn.ModuleList, llm.layers)
    if len(layers) > FEW:
        llm.layers = nn.ModuleList([layers[0], layers[1], layers[-1]])
        for attention in (module for module in layers[-1].modules() if hasattr(module, "layer_idx")):
            cast(Any, attention).layer_idx = 2  # by it a layer knows that it is the last
        repeated[layers[1]] = len(layers) - 2
    return Folded(stage, repeated)


def step_memory(
    folded: Folded, batch: Batch, computed: Computed, *, sharded: bool, keeps_gradients: bool, accumulates: bool
) -> StepMemory:
    """What a micro-batch takes above weights and optimiser.

    Args:
        folded: the stage.
        batch: its pixels are float32.
        computed: in what.
        sharded: parameters are, so that stage 3 adds up its losses and the LM head takes all answers at once.
        keeps_gradients: each device keeps all gradients, as with DDP; else they are handed on as they come.
        accumulates: they are there from the micro-batch before.
    """
    stage = folded.stage
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    dtype = torch.bfloat16 if computed == "bfloat16" else torch.float32
    autocast = torch.autocast("cpu", torch.bfloat16) if computed == "autocast" else nullcontext()
    with _fake_weights(stage, mode, dtype, sharded) as weights, _costliest(stage, sharded):
        pixels = _like(batch.pixel_values, mode, torch.float32)
        memory = LiveMemory(_parts(stage), folded.repeated)
        handles = []
        if keeps_gradients:
            memory.keep_gradients(weights)
        else:
            handles = [weight.register_post_accumulate_grad_hook(_hand_on) for weight in weights]
        with memory:
            memory.leave_out([*stage.parameters(), *stage.buffers()])
            memory.count([pixels])
            if accumulates and keeps_gradients:
                for weight in weights:
                    weight.grad = torch.zeros_like(weight)
            with autocast:
                loss = stage.loss(replace(batch, pixel_values=pixels))["loss"]
            loss.backward()
        memory.release()
        for handle in handles:
            handle.remove()
    return StepMemory(memory.peak, memory.at_peak, memory.most)


def _parts(stage: Stage) -> dict[str, nn.Module]:
    hf = stage.model.backbone.hf
    return {
        "vision encoder": hf.model.vision_tower,
        "connector": hf.model.multi_modal_projector,
        "llm": cast(nn.Module, hf.model.language_model),
        "logits": hf.lm_head,
        "router": stage.model.router,
    }


def _hand_on(weight: Tensor) -> None:
    weight.grad = None


def _like(tensor: Tensor, mode: FakeTensorMode, dtype: torch.dtype) -> Tensor:
    with mode:
        return torch.empty(tensor.shape, dtype=dtype if tensor.is_floating_point() else tensor.dtype, device="cpu")


@contextmanager
def _fake_weights(
    stage: Stage, mode: FakeTensorMode, dtype: torch.dtype, sharded: bool
) -> Generator[Sequence[nn.Parameter]]:
    """Within this, weights and buffers are fake ones of a dtype; gives those that are trained."""
    made, before = dict[int, Tensor](), list[tuple[dict[str, Tensor | None], str, Tensor]]()
    for module in stage.modules():
        for named in cast(Any, (module._parameters, module._buffers)):  # pyright: ignore[reportPrivateUsage]  they cannot be set to others by name
            for name, tensor in named.items():
                if tensor is None:
                    continue
                before.append((named, name, tensor))
                if id(tensor) not in made:
                    fake = _like(tensor, mode, dtype)
                    if isinstance(tensor, nn.Parameter):
                        fake = nn.Parameter(fake, requires_grad=tensor.requires_grad)
                        if sharded:
                            fake.ds_id = 0  # pyright: ignore[reportAttributeAccessIssue]  by this is DeepSpeed's ZeRO stage 3 known
                    made[id(tensor)] = fake
                named[name] = made[id(tensor)]
    try:
        yield [one for one in made.values() if isinstance(one, nn.Parameter) and one.requires_grad]
    finally:
        for named, name, tensor in before:
            named[name] = tensor


@contextmanager
def _costliest(stage: Stage, sharded: bool) -> Generator[None]:
    """Within this, the stage goes through what takes most of all that it may draw or skip.

    Level by level, two do for all: one that leaves gradients behind, and the finest.
    """
    if isinstance(stage, MultiGranularityTuning):
        count = len(stage.granularities)
        wanted = min(stage.levels_per_step or count, 2 if stage.sequential_backward and not sharded else count)
        stage.levels_of_step = lambda: list(range(count - wanted, count))
    if isinstance(stage, RGLF) and stage.feedback is not None:
        stage.feedback_on = lambda batch, levels: _stored(len(batch.keys), len(levels))
    try:
        yield
    finally:
        for name in ("levels_of_step", "feedback_on"):
            stage.__dict__.pop(name, None)


def _stored(questions: int, levels: int) -> Feedback:
    return Feedback(torch.zeros(questions, levels), torch.zeros(questions, levels, dtype=torch.bool))
