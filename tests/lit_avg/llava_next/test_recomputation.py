"""What the backward pass goes through is recomputed, also where nothing is trained, and dropout stays off there."""

from functools import partial

import pytest
import torch
from torch import Tensor

from lit_avg.batch import Batch
from lit_avg.llava_next.backbone import Backbone
from lit_avg.model import AvgLlava
from lit_avg.routing.router import GranularityRouter
from lit_avg.stages import GumbelRouterTuning, InstructionTuning, Pretrain
from lit_avg.stages.base import Stage
from lit_avg.training.optim import Optimization
from lit_avg.visual_tokens.granularity import Granularities
from tests.tiny import LEVELS, TILE, VOCABULARY

VISION = {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
VISION |= {"num_attention_heads": 2, "image_size": TILE, "patch_size": 8, "projection_dim": 16}
LLM = {"model_type": "llama", "hidden_size": 24, "intermediate_size": 96, "num_hidden_layers": 6}
LLM |= {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": VOCABULARY, "attention_dropout": 0.5}


def make_model(recompute: bool) -> AvgLlava:
    torch.manual_seed(0)
    backbone = partial(Backbone, dict(VISION), dict(LLM), gradient_checkpointing=recompute)
    router = partial(GranularityRouter, instruction_tokens=4, heads=2, dropout=0.0)
    return AvgLlava(backbone, Granularities(LEVELS), router, k=4)


def bytes_and_gradients(kind: type[Stage], recompute: bool, batch: Batch) -> tuple[int, dict[str, Tensor]]:
    """What is held for the backward pass, parameters not counted, and what comes of it."""
    stage = kind(partial(make_model, recompute), Optimization(lr=1e-3))
    stage.configure_model()
    parameters = {parameter.data_ptr() for parameter in stage.parameters()}
    held = dict[int, int]()

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = stage.loss(batch)["loss"]
    bytes_held = sum(held.values())
    loss.backward()
    return bytes_held, {name: one.grad for name, one in stage.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("kind", [Pretrain, GumbelRouterTuning])
def test_a_frozen_llm_that_gradients_go_through_is_recomputed_without_dropout(kind: type[Stage], batch: Batch) -> None:
    whole, expected = bytes_and_gradients(kind, False, batch)
    recomputed, found = bytes_and_gradients(kind, True, batch)
    assert recomputed < 0.4 * whole, (recomputed, whole)
    assert expected
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)  # half of the attention would be dropped


@pytest.mark.parametrize("recompute", [False, True])
def test_nothing_is_held_of_what_is_frozen_and_comes_before_all_that_is_trained(recompute: bool, batch: Batch) -> None:
    stage = Pretrain(partial(make_model, recompute), Optimization(lr=1e-3))
    stage.configure_model()
    seen: list[Tensor] = []
    stage.model.backbone.hf.model.vision_tower.register_forward_hook(lambda _, __, output: seen.append(output[0]))
    stage.loss(batch)
    assert [one.requires_grad for one in seen] == [False]
    assert not stage.model.backbone.embed(batch.input_ids).requires_grad


def test_a_backward_pass_leaves_each_modules_mode_as_it_was(batch: Batch) -> None:
    stage = Pretrain(partial(make_model, True), Optimization(lr=1e-3))
    stage.configure_model()
    layers = stage.model.backbone.hf.model.language_model.layers
    modes = [module.training for module in stage.modules()]
    stage.loss(batch)["loss"].backward()
    assert [module.training for module in stage.modules()] == modes
    assert all(layer.training and not any(inner.training for inner in [*layer.modules()][1:]) for layer in layers)


def test_a_trained_llm_has_its_dropout(batch: Batch) -> None:
    dropped, whole = (bytes_and_gradients(InstructionTuning, recompute, batch) for recompute in (True, False))
    assert dropped[0] < 0.4 * whole[0]
    stage = InstructionTuning(partial(make_model, True), Optimization(lr=1e-3))
    stage.configure_model()
    torch.manual_seed(0)
    first, second = (stage.loss(batch)["loss"].item() for _ in range(2))
    assert first != second
