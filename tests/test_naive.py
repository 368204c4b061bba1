"""Fast is what the authors' way gives: losses, and the gradients of router, LLM and connector."""

import pytest
import torch
from torch import Tensor

from benchmarks.naive import Naive
from benchmarks.shapes import SHAPES, make_batch, make_model, make_stage
from lit_avg.batch import Batch
from lit_avg.model import AvgLlava
from lit_avg.stages import RGLF, MultiGranularityTuning
from lit_avg.stages.base import Stage
from lit_avg.training.optim import Optimization
from tests import tiny

RATE = Optimization(lr=1e-3)
CLOSE = {"atol": 1e-6, "rtol": 1e-5}


@pytest.fixture
def uneven() -> Batch:
    """Rows of unlike length on images of unlike shape, two rows on the same one."""
    return tiny.make_batch(
        [([(4, 2)], 0), ([(9, 1)], 1), ([(5, 3)], 0), ([(4, 2)], 2)],
        [((1, 2), (32, 64)), ((2, 1), (60, 20)), ((2, 2), (64, 64))],
    )


def gradients(model: AvgLlava, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def configured(stage: Stage) -> Stage:
    stage.configure_model()
    return stage


def assert_alike(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    scale = max(gradient.abs().max() for gradient in theirs.values())
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name] / scale, gradient / scale, atol=1e-6, rtol=0.0, msg=name)


def test_a_stage_4_step_has_the_loss_and_router_gradients_of_the_authors_way(uneven: Batch) -> None:
    images = uneven.image_of_row.tolist()
    assert images != sorted(images)  # the authors' way takes an image a row, so here the rows have their own
    batch = tiny.make_batch(
        [([(4, 2)], 0), ([(9, 1)], 1), ([(5, 3)], 2)], [((1, 2), (32, 64)), ((2, 1), (60, 20)), ((2, 2), (64, 64))]
    )
    stage = configured(RGLF(lambda: tiny.tiny_model(semantics="release"), RATE)).double()  # rounding is no difference
    batch.pixel_values = batch.pixel_values.double()
    ours, theirs = stage.loss(batch)["loss"], Naive(stage.model).stage4(batch)
    torch.testing.assert_close(ours, theirs, **CLOSE)
    assert_alike(gradients(stage.model, ours), gradients(stage.model, theirs))


def test_a_stage_3_step_has_the_loss_and_gradients_of_the_authors_way(uneven: Batch) -> None:
    stage = configured(MultiGranularityTuning(lambda: tiny.tiny_model(semantics="release"), RATE))
    ours, theirs = stage.loss(uneven)["loss"], Naive(stage.model).stage3(uneven)
    torch.testing.assert_close(ours, theirs, **CLOSE)
    found = gradients(stage.model, ours)
    assert not [name for name in found if "vision_tower" in name]
    assert [name for name in found if "multi_modal_projector" in name]
    assert_alike(found, gradients(stage.model, theirs))


@pytest.mark.parametrize("number", [3, 4])
def test_the_benchmarks_own_batch_has_equal_losses_both_ways(number: int) -> None:
    stage = make_stage(number, make_model(SHAPES["tiny"], dropout=0.0))
    batch = make_batch(SHAPES["tiny"])
    naive = Naive(stage.model)
    theirs = naive.stage3(batch) if number == 3 else naive.stage4(batch)
    torch.testing.assert_close(stage.loss(batch)["loss"], theirs, **CLOSE)


def test_the_anchor_shape_has_the_visual_tokens_of_the_timed_release() -> None:
    batch, model = make_batch(SHAPES["anchor"]), make_model(SHAPES["anchor"])
    height, width = batch.image_sizes[0].tolist()
    counts = [model.layout.count(batch.tile_grids[0], (height, width), level) for level in range(5)]
    assert counts == [192, 228, 744, 888, 2928]
