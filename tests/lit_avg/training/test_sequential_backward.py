"""Going back after each level gives the gradients of going back once."""

import weakref
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from lit_avg.batch import Batch
from lit_avg.llava_next.llm_input import llm_input
from lit_avg.stages import MultiGranularityTuning
from lit_avg.training.optim import Optimization
from lit_avg.training.sequential_backward import sum_with_sequential_backward
from lit_avg.utils.errors import UserError
from tests.tiny import tiny_model

RATE = Optimization(lr=1e-3)


def make_stage(
    sequential_backward: bool, tokens_at_once: int = 4096, levels_per_step: int | None = None
) -> MultiGranularityTuning:
    stage = MultiGranularityTuning(
        tiny_model,
        RATE,
        sequential_backward=sequential_backward,
        tokens_at_once=tokens_at_once,
        levels_per_step=levels_per_step,
    )
    stage.configure_model()
    return stage


def gradients(stage: MultiGranularityTuning, loss: Tensor) -> dict[str, Tensor]:
    stage.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in stage.named_parameters() if p.grad is not None}


def test_each_term_is_differentiated_by_itself_and_the_sum_scales_them() -> None:
    features, weight = torch.tensor([2.0], requires_grad=True), nn.Parameter(torch.tensor([3.0]))
    terms = [lambda x: (x * weight).sum(), lambda x: (x**2).sum()]
    loss, losses = sum_with_sequential_backward(terms, features * 1, [weight], 0.5)
    assert (loss.item(), [term.item() for term in losses]) == (5.0, [6.0, 4.0])  # (6 + 4) / 2
    (10 * loss).backward()
    assert features.grad is not None
    assert weight.grad is not None
    assert features.grad.item() == 10 * 0.5 * (3 + 2 * 2)
    assert weight.grad.item() == 10 * 0.5 * 2


class LiveBytes(TorchDispatchMode):
    """The most that tensors made within it have held at once, beside those that were there."""

    def __init__(self, there: list[nn.Parameter]) -> None:
        super().__init__()
        self.live, self.most = 0, 0
        self.seen = {tensor.untyped_storage()._cdata for tensor in there}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> object:
        made = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._note, made)
        return made

    def _note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.seen:
            self.seen.add(storage._cdata)
            self.live += storage.nbytes()
            self.most = max(self.most, self.live)
            weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())
        return tensor

    def _forget(self, number: int, size: int) -> None:
        self.seen.discard(number)
        self.live -= size


def test_the_gradients_are_held_once_and_one_tensor_of_them_twice() -> None:
    """Sixteen weights of 1 MB; whoever asks for a term's gradients all at once holds 32 MB."""
    weights = [nn.Parameter(torch.randn(512, 512) / 512**0.5) for _ in range(16)]
    features = torch.randn(1, 512, requires_grad=True)

    def term(x: Tensor) -> Tensor:
        for weight in weights:
            x = (x @ weight).tanh()
        return x.sum()

    with LiveBytes(weights) as counted:
        loss, _ = sum_with_sequential_backward([term] * 3, features, weights, 1 / 3)
    found, expected = torch.autograd.grad(loss, weights), torch.autograd.grad(term(features), weights)
    assert counted.most / 2**20 < 16 + 1.5
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("tokens_at_once", [4096, 60, 1])
def test_the_gradients_of_all_parts_are_those_of_the_sum(tokens_at_once: int, batch: Batch) -> None:
    one, other = make_stage(True, tokens_at_once), make_stage(False)
    losses, expected = one.loss(batch), other.loss(batch)
    assert losses.keys() == expected.keys()
    torch.testing.assert_close(losses, expected)
    found, wanted = gradients(one, losses["loss"]), gradients(other, expected["loss"])
    assert found.keys() == wanted.keys()
    assert [name for name in found if "vision_tower" in name]
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-5, msg=name)


def test_only_one_level_of_the_llm_is_held_at_a_time(batch: Batch) -> None:
    def held(sequential_backward: bool) -> int:
        stage, kept = make_stage(sequential_backward), list[int]()
        layer = stage.model.backbone.hf.model.language_model.layers[0]
        layer.mlp.register_forward_pre_hook(lambda *_: kept.append(sum(alive)))
        layer.register_full_backward_hook(lambda *_: alive.__setitem__(slice(None), [0]))
        layer.register_forward_hook(lambda *_: alive.append(1))
        alive = [0]
        stage.loss(batch)["loss"].backward()
        return max(kept)

    assert (held(True), held(False)) == (0, 4)  # other levels' graphs that wait for their backward pass


@pytest.mark.parametrize("settings", [{"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2}, {}], ids=str)
def test_a_trainer_makes_the_same_weights_of_it(settings: dict[str, object], batch: Batch, tmp_path: Path) -> None:
    weights, norms = list[dict[str, Tensor]](), list[Tensor]()
    for sequential_backward in (True, False):
        stage = MultiGranularityTuning(tiny_model, Optimization(lr=1e-2), sequential_backward=sequential_backward)
        loader = torch.utils.data.DataLoader([batch] * 4, batch_size=None)
        trainer = L.Trainer(
            default_root_dir=tmp_path, max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=1.0, **settings,
        )  # fmt: skip
        trainer.fit(stage, loader)
        weights.append({name: p.detach() for name, p in stage.named_parameters()})
        norms.append(trainer.callback_metrics["train/gradient_norm"])  # Adam would hide a wrong scale
    one, other = (torch.cat([p.flatten() for p in of_run.values()]) for of_run in weights)
    rounded = "precision" in settings  # bfloat16 adds up in another order, and Adam makes much of small gradients
    torch.testing.assert_close(*norms, atol=0.0, rtol=2e-2 if rounded else 1e-4)
    assert (one - other).abs().mean() < (1e-3 if rounded else 1e-6)


def test_float16_gradients_are_left_to_the_scaler(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = make_stage(True)
    monkeypatch.setattr(
        "lit_avg.stages.multi_granularity.sum_with_sequential_backward", partial(pytest.fail, "unscaled")
    )
    with torch.autocast("cpu", torch.float16):
        stage.loss(batch)


def test_drawn_levels_average_to_the_loss_of_all(batch: Batch) -> None:
    whole = make_stage(True).loss(batch)
    torch.manual_seed(0)
    stage, drawn = make_stage(True, levels_per_step=2), list[set[str]]()
    for _ in range(40):
        losses = stage.loss(batch)
        names = set(losses) - {"loss"}
        assert losses["loss"].item() == pytest.approx(sum(whole[name].item() for name in names) / 2, rel=1e-5)
        drawn.append(names)
    assert {len(names) for names in drawn} == {2}
    assert set.union(*drawn) == set(whole) - {"loss"}


def test_parts_of_an_input_hold_all_its_rows_and_no_more_tokens_than_asked(batch: Batch) -> None:
    rows = llm_input(batch, [4, 4, 4], make_stage(True).model.layout)
    lengths = (rows.question >= -1).sum(dim=1).tolist()
    parts = rows.split(lengths[1] + lengths[2])
    assert [len(part.source) for part in parts] == [1, 2]  # the first, of three questions, is the longest
    assert parts[1].source.shape[1] == max(lengths[1:])
    assert sum(len(part.answer_token) for part in parts) == len(rows.answer_token)
    assert [len(part.source) for part in rows.split(1)] == [1, 1, 1]
    assert [len(part.source) for part in rows.split(sum(lengths))] == [3]


def test_no_level_at_all_is_refused() -> None:
    with pytest.raises(UserError, match="levels_per_step must be a number at least 1, but is 0"):
        MultiGranularityTuning(tiny_model, RATE, levels_per_step=0)


def test_more_levels_a_step_than_there_are_are_refused_before_training() -> None:
    MultiGranularityTuning(tiny_model, RATE, levels_per_step=5).configure_model()
    with pytest.raises(UserError, match="levels_per_step is 6, but there are 5 granularities"):
        MultiGranularityTuning(tiny_model, RATE, levels_per_step=6).configure_model()
