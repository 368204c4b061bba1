"""What `lit-avg plan` says of memory against what torch's allocator counts. Run: python -m benchmarks.plan

Predicted is the peak of a step on tensors without content, as a plan has it; measured is the peak of the same step of
the same model, real, on the CPU: weights and AdamW's moments, and above them every allocation and release that torch's
profiler reports of the allocator, so that what kernels hold within themselves counts too. Resident memory would not do:
it keeps what was released, and differs by tens of MiB from run to run.
"""

import argparse
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any, Literal, cast

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from benchmarks.measure import MIB, machine, table
from benchmarks.shapes import SHAPES, Shape, make_batch
from lit_avg.llava_next.backbone import Backbone
from lit_avg.model import AvgLlava
from lit_avg.planning.fake_step import Computed, fold, step_memory
from lit_avg.planning.live_memory import LiveMemory
from lit_avg.planning.strategies import ONE_DEVICE, Weights
from lit_avg.routing.router import GranularityRouter
from lit_avg.stages import RGLF, InstructionTuning, MultiGranularityTuning, Pretrain
from lit_avg.stages.base import Stage
from lit_avg.training.optim import Optimization
from lit_avg.visual_tokens.granularity import Granularities

STAGES: dict[int, type[Stage]] = {1: Pretrain, 2: InstructionTuning, 3: MultiGranularityTuning, 4: RGLF}

HEAD = ("shape", "stage", "recomputed", "predicted MiB", "measured MiB", "ratio")

Learning = Literal["recomputed", "frozen", "trained"]


def make_stage(shape: Shape, number: int, recompute: bool, device: str) -> Stage:
    """A stage that starts from random weights."""

    def make_model() -> AvgLlava:
        vision, llm = {"model_type": "clip_vision_model"} | shape.vision, {"model_type": "llama"} | shape.llm
        router = partial(GranularityRouter, instruction_tokens=shape.k, heads=shape.router_heads)
        backbone = partial(Backbone, vision, llm, gradient_checkpointing=recompute)
        return AvgLlava(backbone, Granularities(shape.granularities), router, k=shape.k)

    stage = STAGES[number](make_model, Optimization(lr=1e-3))
    with torch.device(device):
        stage.model = stage.make_model()
    stage.freeze_the_rest()
    return stage


def predicted(shape: Shape, number: int, recompute: bool, computed: Computed = "float32") -> int:
    """Bytes of a step at its peak on a single device, as a plan has them."""
    stage, batch = make_stage(shape, number, recompute, "meta"), make_batch(replace(shape, dtype=torch.float32))
    kept = ONE_DEVICE[0].kept(Weights.of(stage), "32-true", 1)
    step = step_memory(fold(stage), batch, computed, sharded=False, keeps_gradients=True, accumulates=False)
    return kept.weights + kept.optimiser + max(step.peak, kept.stepping)


def measured(shape: Shape, number: int, recompute: bool) -> int:
    """Bytes of a second step at its peak, the optimiser's moments being there."""
    torch.manual_seed(0)
    stage, batch = make_stage(shape, number, recompute, "cpu"), make_batch(replace(shape, dtype=torch.float32))
    optimizer = torch.optim.AdamW([one for one in stage.parameters() if one.requires_grad], foreach=True)

    def step() -> None:
        stage.loss(batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    moments = [value for state in optimizer.state.values() for value in state.values() if value.dim()]
    there = sum(one.nbytes for one in (*stage.parameters(), *moments, batch.pixel_values))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler, _quiet():
        step()
    reported = cast(Any, profiler.profiler).kineto_results.events()
    events = sorted((event.start_ns(), event.nbytes()) for event in reported if event.name() == "[memory]")
    return there + max(accumulate(size for _, size in events))


def calibrated(name: str, number: int, recompute: bool) -> list[object]:
    """A row of the table."""
    shape = replace(SHAPES[name], device="cpu")
    ours, real = predicted(shape, number, recompute), measured(shape, number, recompute)
    megabytes = f"{ours / MIB:,.2f}", f"{real / MIB:,.2f}"
    return [name, number, "yes" if recompute else "no", *megabytes, f"{ours / real:.3f}"]


def layer_bytes(learning: Learning, tokens: int, real: bool) -> float:
    """KiB per token that one layer of Llama-7B's width leaves for the backward pass, in bfloat16.

    Args:
        learning: recomputed, frozen or trained.
        tokens: of the sequence.
        real: with a real layer, of 400 MB; else on tensors without content.
    """
    config = LlamaConfig(hidden_size=4096, intermediate_size=11008, num_attention_heads=32, vocab_size=8)
    config._attn_implementation = "sdpa"  # pyright: ignore[reportPrivateUsage]  it has no public name
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with nullcontext() if real else FakeTensorMode():
        layer = LlamaDecoderLayer(config, 0).requires_grad_(learning != "frozen")
        rotary = LlamaRotaryEmbedding(config)
        hidden = torch.randn(1, tokens, 4096, dtype=torch.bfloat16).requires_grad_()
        positions = rotary(hidden, torch.arange(tokens).unsqueeze(0))
    torch.set_default_dtype(default)
    if learning == "recomputed":
        own = cast(Any, layer)
        own.gradient_checkpointing, own._gradient_checkpointing_func = True, partial(checkpoint, use_reentrant=False)
    memory = LiveMemory({}, {})
    with memory:
        memory.leave_out([*layer.parameters(), *positions])
        memory.count([hidden])
        output = layer(hidden, position_embeddings=positions)
    kept = memory.now - output.nbytes  # which the next layer has as its own
    return kept / tokens / 1024


@contextmanager
def _quiet() -> Generator[None]:
    """Without what the profiler writes to the process's own standard error."""
    own = os.dup(2)
    with tempfile.TemporaryFile() as unread:
        os.dup2(unread.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(own, 2)
            os.close(own)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=["tiny", "anchor"], default=["tiny", "anchor"])
    arguments = parser.parse_args()
    print(f"{machine('cpu')}, float32, one step with AdamW")
    rows = [
        calibrated(name, number, recompute)
        for name in arguments.shapes
        for number in STAGES
        for recompute in (False, True)
    ]
    print(table(HEAD, rows))
    learnings: tuple[Learning, ...] = ("recomputed", "frozen", "trained")
    layers = [[way, *(f"{layer_bytes(way, 64, real):.1f}" for real in (False, True))] for way in learnings]
    print(table(("a layer of Llama-7B, bfloat16", "predicted KiB per token", "measured"), layers))


if __name__ == "__main__":
    main()
