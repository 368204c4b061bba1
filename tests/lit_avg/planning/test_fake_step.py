"""What a step takes by its sizes alone is what torch's allocator counts when it is real."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.plan import layer_bytes, make_stage, measured, predicted
from benchmarks.shapes import SHAPES, make_batch
from lit_avg.planning.fake_step import fold, step_memory
from lit_avg.planning.live_memory import LiveMemory

TINY = SHAPES["tiny"]
DEEP = replace(
    TINY, vision=TINY.vision | {"num_hidden_layers": 7}, llm=TINY.llm | {"num_hidden_layers": 6, "hidden_size": 48}
)
"""Six layers of the encoder are read, and six of the LLM: three of each are gone through."""


@pytest.mark.parametrize(("stage", "recompute"), [(1, True), (2, True), (3, False), (4, False)])
def test_a_steps_peak_is_told_to_within_15_percent(stage: int, recompute: bool) -> None:
    assert predicted(TINY, stage, recompute) == pytest.approx(measured(TINY, stage, recompute), rel=0.15)


@pytest.mark.parametrize("recompute", [False, True])
def test_one_layer_stands_for_several(recompute: bool) -> None:
    assert len(fold(make_stage(DEEP, 2, recompute, "meta")).repeated) == 2
    assert predicted(DEEP, 2, recompute) == pytest.approx(measured(DEEP, 2, recompute), rel=0.15)


def test_gradients_count_where_each_device_keeps_them() -> None:
    batch = make_batch(replace(DEEP, dtype=torch.float32))
    trained = sum(one.numel() for one in make_stage(DEEP, 2, True, "meta").parameters() if one.requires_grad)
    peaks = dict[bool, int]()
    for keeps in (False, True):
        folded = fold(make_stage(DEEP, 2, True, "meta"))
        step = step_memory(folded, batch, "float32", sharded=False, keeps_gradients=keeps, accumulates=True)
        peaks[keeps] = step.peak
        assert step.most.get("gradients", 0) == 4 * trained * keeps
    assert peaks[True] > peaks[False]


def test_what_a_layer_of_llama_7b_leaves_for_the_backward_pass() -> None:
    # its input has 4096 x 2 bytes = 8 KiB; what else it leaves if nothing in it is trained, and all of it
    assert layer_bytes("recomputed", 16, real=False) == 8.0
    assert layer_bytes("frozen", 16, real=False) == pytest.approx(8 + 129, rel=0.01)
    assert layer_bytes("trained", 16, real=False) == pytest.approx(8 + 182, rel=0.01)


def test_a_storage_counts_once_until_nothing_holds_it() -> None:
    with FakeTensorMode():
        weight = nn.Parameter(torch.empty(10, 10))
    memory = LiveMemory({}, {})
    with memory:
        memory.leave_out([weight])
        product = weight @ weight  # 10 x 10 x 4 bytes
        view = product.t()
        assert memory.now == 400
        del product
        assert memory.now == 400
        del view
        assert (memory.now, memory.peak) == (0, 400)
