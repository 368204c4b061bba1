"""Each strategy builds the very model that one process does; no rank holds all of one that is spread over many."""

import threading
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from lit_avg.llava_next import hf_model
from lit_avg.llava_next.backbone import Backbone
from lit_avg.llava_next.llm_configs import config_of
from lit_avg.model import AvgLlava
from lit_avg.routing.router import GranularityRouter
from lit_avg.stages import Pretrain
from lit_avg.stages.base import Stage
from lit_avg.training.optim import Optimization
from lit_avg.visual_tokens.granularity import Granularities
from tests.cpu_strategies import DeepSpeedOnCpu
from tests.llms import llm
from tests.tiny import LEVELS, make_batch, tiny_backbone
from tests.tiny_run import ResumableBatches
from tests.two_ranks import on_ranks

VISION = tiny_backbone().hf.config.vision_config.to_dict() | {"model_type": "clip_vision_model"}  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
LARGE = "large"
"""An LLM of 30 million parameters, of which a layer has a tenth."""

FAMILIES = ("llama2", "smollm2")  # an LM head of its own, and one tied to the embeddings


def settings(family: str) -> dict[str, Any]:
    if family != LARGE:
        return llm(family)
    return llm("llama2", hidden_size=512, intermediate_size=1280, num_hidden_layers=10)


def backbone(family: str) -> Backbone:
    return Backbone(dict(VISION), settings(family))


def model(family: str) -> AvgLlava:
    router = partial(GranularityRouter, instruction_tokens=4, heads=2, dropout=0.0)
    return AvgLlava(partial(backbone, family), Granularities(LEVELS), router, k=4)


def stage(family: str, folder: Path) -> Stage:
    """Stage 1 as it begins with 7 billion weights: nothing of encoder and LLM is drawn."""
    hf_model.DRAWN_AT_MOST = 0
    parts: dict[Literal["vision_encoder", "llm"], str] = {
        "vision_encoder": str(folder / "encoder"),
        "llm": str(folder / family),
    }
    optimization = Optimization(lr=0.01, loss_normalisation="micro_batch")
    return Measured(partial(model, family), optimization, pretrained_parts=parts)


def trainer(folder: Path, strategy: Strategy | str, devices: int, **options: Any) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    quiet |= {"enable_model_summary": False, "limit_val_batches": 0, "max_steps": 3}
    return L.Trainer(accelerator="cpu", devices=devices, strategy=strategy, default_root_dir=folder, **quiet, **options)


def weights(family: str, folder: Path) -> None:
    """In half precision, as the hub has them; the LLM in two files, older names and buffers among them."""
    tiny_backbone().hf.model.vision_tower.half().save_pretrained(folder / "encoder")
    torch.manual_seed(1)
    made = AutoModelForCausalLM.from_config(config_of(settings(family))).to(torch.bfloat16)
    made.save_pretrained(folder / family, max_shard_size="10KB")


def trained(family: str, folder: Path, strategy: Strategy | str, ranks: int, **options: Any) -> dict[str, Tensor]:
    """Everything a stage has after three steps on the same batch on each rank, whole."""
    L.seed_everything(0)
    module = stage(family, folder)
    batch = make_batch([([(4, 2), (3, 1)], 0), ([(5, 2)], 1)], [((1, 2), (32, 64)), ((2, 1), (60, 20))])
    trainer(folder, strategy, ranks, **options).fit(module, ResumableBatches([batch] * 3))
    return {name: whole(parameter) for name, parameter in module.named_parameters()}


def whole(parameter: Tensor) -> Tensor:
    tensor = parameter.detach()
    if isinstance(tensor, DTensor):
        return tensor.full_tensor()
    if hasattr(parameter, "ds_id"):
        assert not tensor.numel(), "a parameter that ZeRO stage 3 has not partitioned"
        parameter.all_gather()  # pyright: ignore[reportAttributeAccessIssue]
        return parameter.detach().clone()
    return tensor


class Measured(Pretrain):
    """Notes by how much the memory of the process grew at most while the model was built, in bytes."""

    growth = 0

    def configure_model(self) -> None:
        before, built = own_memory(), threading.Event()

        def watch() -> None:
            while not built.wait(0.002):
                Measured.growth = max(Measured.growth, own_memory() - before)

        watcher = threading.Thread(target=watch)
        watcher.start()
        super().configure_model()
        built.set()
        watcher.join()


def own_memory() -> int:
    """What is not a file's, in bytes: the system may take back what is only mapped."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


def on_a_rank(folder: str) -> None:
    place = Path(folder)
    for family in FAMILIES:
        alone = torch.load(place / f"{family}.pt")
        sharded = {
            "fsdp2": ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1),
            "zero3": DeepSpeedOnCpu(stage=3, logging_batch_size_per_gpu=1),
        }
        for name, strategy in sharded.items():
            found = trained(family, place, strategy, 2)
            assert found.keys() == alone.keys(), name
            for tensor, value in found.items():
                torch.testing.assert_close(value, alone[tensor], rtol=1e-5, atol=1e-6, msg=f"{name}: {tensor}")
    for strategy in (ModelParallelStrategy(2, 1), DeepSpeedOnCpu(stage=3, logging_batch_size_per_gpu=1)):
        Measured.growth = 0
        found = trained(LARGE, place, strategy, 2)
        size = 4 * sum(tensor.numel() for tensor in found.values())
        # half of it, a layer, and what is sent of it, less what was free from before; where all is built first it is
        # all of it, and the half besides
        assert 0 < Measured.growth < 1.1 * size, f"{type(strategy).__name__}: {Measured.growth / size:.2f}"


@pytest.mark.slow
def test_a_model_that_is_spread_over_ranks_is_the_one_that_a_single_process_builds_and_trains(tmp_path: Path) -> None:
    weights(LARGE, tmp_path)
    for family in FAMILIES:
        weights(family, tmp_path)
        torch.save(trained(family, tmp_path, "auto", 1), tmp_path / f"{family}.pt")
    assert on_ranks(2, tmp_path / "marks", on_a_rank, str(tmp_path)) == [0, 0]
