"""FLOPs by a stage's matrices are those that torch counts while it trains."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import set_checkpoint_early_stop
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plan import make_stage
from benchmarks.shapes import SHAPES, make_batch
from lit_avg.data import SampleSizes
from lit_avg.planning.step_flops import total, training_flops
from lit_avg.planning.workload import Workload, workload
from lit_avg.stages.base import Stage

SHAPE = replace(SHAPES["tiny"], before_image=1, instruction=39, answer=20)


def samples(stage: Stage) -> Workload:
    """Those of the shape's batch: 60 tokens of text, a third of them answers, about an image of 1 x 2 tiles."""
    sizes = SampleSizes(2, np.array([60]), np.array([[32, 64]]), np.array([[1, 2]]), 1 / 3, 60, 1.0, "")
    return workload(sizes, stage.model.layout, 32)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_flops_are_those_of_torchs_counter(stage: int) -> None:
    built = make_stage(SHAPE, stage, True, "cpu")
    backbone = built.model.backbone
    backbone.hf.set_attn_implementation("eager")  # its products are counted; those within fused CPU kernels are not
    backbone.hf.model.language_model.set_attn_implementation("packed_eager")
    batch = make_batch(replace(SHAPE, dtype=torch.float32))
    with FlopCounterMode(display=False) as counter, set_checkpoint_early_stop(False):
        built.loss(batch)["loss"].backward()
    expected = SHAPE.rows * total(training_flops(built, samples(built)))
    assert counter.get_total_flops() == pytest.approx(expected, rel=1e-6)


def test_only_what_gradients_go_through_is_gone_back_through_and_recomputed() -> None:
    flops = {stage: training_flops(built, samples(built)) for stage in (1, 2, 4) for built in [_meta(stage)]}
    encoder, llm = flops[1]["vision encoder"], flops[1]["llm"]
    assert (encoder.backward, encoder.recomputed) == (0, 0)
    assert llm.recomputed == llm.forward
    assert llm.forward < llm.backward < 2 * llm.forward  # no gradients of its weights, but attention twice
    assert flops[2]["llm"].backward == pytest.approx(2 * flops[2]["llm"].forward)
    assert flops[4]["llm"].backward == 0
    assert flops[4]["router"].backward == 2 * flops[4]["router"].forward


def _meta(stage: int) -> Stage:
    return make_stage(SHAPE, stage, True, "meta")
