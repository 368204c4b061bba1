"""Optimisers with 8-bit states: the same groups, nearly the same steps, and the same again after a kill."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import get_cosine_with_min_lr_schedule_with_warmup

from lit_avg.training.optim import Optimization, ParameterGroup, adamw_with_cosine
from lit_avg.utils.errors import UserError
from tests.continuation import Life, differences, live
from tests.drawn import drawn_shards
from tests.killing import write_config
from tests.tiny_run import write_yaml

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")


def trained(optimizer: Any, steps: int) -> tuple[nn.Linear, Any]:
    torch.manual_seed(0)
    layer = nn.Linear(128, 64)  # of fewer than 4096 numbers, like its bias, states stay in float32
    groups = [ParameterGroup("weight", 1e-2, [layer.weight]), ParameterGroup("bias", 1e-3, [layer.bias])]
    settings = Optimization(lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1, warmup_ratio=0, optimizer=optimizer)
    made: Any = adamw_with_cosine(groups, 1000, settings)["optimizer"]  # pyright: ignore[reportCallIssue, reportArgumentType, reportIndexIssue, reportOptionalSubscript]
    images = torch.randn(32, 128, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        made.zero_grad()
        (layer(images) - images[:, :64]).square().mean().backward()
        made.step()
    return layer, made


def bytes_of(state: Any) -> int:
    if isinstance(state, Tensor):
        return state.nbytes
    return sum(map(bytes_of, state.values())) if isinstance(state, dict) else 0


def test_states_of_8_bits_take_a_quarter_and_train_as_well() -> None:
    (plain, adamw), (layer, adamw8bit) = trained("adamw", 20), trained("adamw8bit", 20)
    for key in ("name", "lr", "betas", "weight_decay", "eps"):
        assert [group[key] for group in adamw8bit.param_groups] == [group[key] for group in adamw.param_groups], key
    # both moments of 64 x 128 numbers, and for each block of 256 the largest
    kept = adamw8bit.state[layer.weight]
    assert [kept[name].dtype for name in ("state1", "state2")] == [torch.uint8] * 2
    assert sum(kept[name].nbytes for name in ("state1", "state2")) * 4 == 2 * plain.weight.nbytes
    images = torch.randn(32, 128, generator=torch.Generator().manual_seed(1))
    begun = (trained("adamw", 0)[0](images) - images[:, :64]).square().mean()
    losses = [(one(images) - images[:, :64]).square().mean() for one in (plain, layer)]
    assert losses[0] < 0.5 * begun
    torch.testing.assert_close(losses[1], losses[0], rtol=0.05, atol=0)


def test_a_killed_run_goes_on_with_its_8_bit_states_bit_by_bit(tmp_path: Path) -> None:
    made = Path(write_config(tmp_path, drawn_shards(tmp_path, 23), 8))
    content = yaml.safe_load(made.read_text())
    content["model"]["class_path"] = "lit_avg.stages.InstructionTuning"
    content["model"]["init_args"]["optimization"] = {"lr": 0.01, "optimizer": "adamw8bit"}
    write_yaml(made, content)
    assert live(tmp_path / "whole", str(made), [], [Life()]) == [0]
    assert live(tmp_path / "killed", str(made), [], [Life("optimizer", 5), Life()]) == [-signal.SIGKILL, 0]
    assert differences(tmp_path / "whole", tmp_path / "killed") == []
    saved = torch.load(tmp_path / "whole" / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0]
    assert any("__bnb_optimizer_quant_state__" in state for state in saved["state"].values())


def test_what_cannot_be_done_with_8_bits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        layer = fully_shard(nn.Linear(2, 2), mesh=init_device_mesh("cpu", (1,)))
        groups = [ParameterGroup("llm", 1e-2, list(layer.parameters()))]
        with pytest.raises(UserError, match="adamw8bit cannot take the parameters that FSDP2 shards; choose adamw"):
            adamw_with_cosine(groups, 10, Optimization(lr=1e-2, optimizer="adamw8bit"))
    finally:
        torch.distributed.destroy_process_group()
    monkeypatch.setattr("lit_avg.training.optim.find_spec", lambda _: None)
    with pytest.raises(UserError, match="optimizer: paged_adamw8bit needs the package bitsandbytes, which is not inst"):
        Optimization(lr=1e-2, optimizer="paged_adamw8bit")


@pytest.mark.parametrize(("warmup", "total", "final"), [(0.03, 100, 0.0), (0.0, 7, 0.1), (1.0, 5, 0.0), (0.5, 1, 0.2)])
def test_the_schedule_is_that_of_transformers(warmup: float, total: int, final: float) -> None:
    def rates(made: Any, scheduler: Any) -> list[float]:
        found = list[float]()
        for _ in range(total + 3):  # a run may be given more steps than were estimated
            found.append(made.param_groups[0]["lr"])
            made.step()
            scheduler.step()
        return found

    parameters = [nn.Parameter(torch.ones(1))]
    settings = Optimization(lr=3e-3, warmup_ratio=warmup, final_lr_ratio=final)
    ours: Any = adamw_with_cosine([ParameterGroup("all", 3e-3, parameters)], total, settings)
    theirs = torch.optim.AdamW(parameters, lr=3e-3)
    schedule = get_cosine_with_min_lr_schedule_with_warmup(theirs, round(warmup * total), total, min_lr_rate=final)
    assert rates(ours["optimizer"], ours["lr_scheduler"]["scheduler"]) == rates(theirs, schedule)
