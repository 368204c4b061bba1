"""Strategies are made ready whoever named them, or refused before any weight is read."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy

from lit_avg.config.trainer_options import check_strategy, check_world
from lit_avg.training.strategies import prepare_strategy
from lit_avg.training.zero_steps import ZeroSteps
from lit_avg.utils.errors import UserError
from tests.cpu_strategies import DeepSpeedOnCpu


def test_a_deepspeed_strategy_of_any_class_counts_as_lightning_does_and_others_stay_what_they_are() -> None:
    ours, other = DeepSpeedOnCpu(stage=2), DDPStrategy()
    for strategy in (ours, ours, other):
        prepare_strategy(strategy)
    assert isinstance(ours, ZeroSteps)
    assert isinstance(ours, DeepSpeedOnCpu)
    assert type(ours).__mro__.count(ZeroSteps) == 1
    assert not ours.handles_gradient_accumulation
    assert type(other) is DDPStrategy


@pytest.mark.parametrize(
    ("given", "sizes"), [({}, (6, 1)), ({"data_parallel_size": 3, "tensor_parallel_size": 2}, (3, 2))]
)
def test_fsdp2_shards_over_all_devices_unless_numbers_say_otherwise(given: dict[str, Any], sizes: object) -> None:
    strategy = ModelParallelStrategy(**given)
    strategy.parallel_devices, strategy.num_nodes = [None] * 3, 2  # pyright: ignore
    prepare_strategy(strategy)
    assert (strategy._data_parallel_size, strategy._tensor_parallel_size) == sizes


def test_the_first_fsdp_is_refused_with_the_second_named() -> None:
    with pytest.raises(UserError, match=r"first FSDP.*strategies/fsdp2.yaml"):
        prepare_strategy(FSDPStrategy())


def test_deepspeed_is_refused_where_no_gpu_is_and_where_gradients_are_clipped_by_value(tmp_path: Path) -> None:
    from lightning.pytorch.strategies import DeepSpeedStrategy

    def trainer(strategy: DeepSpeedStrategy, **options: Any) -> L.Trainer:
        return L.Trainer(default_root_dir=tmp_path, accelerator="cpu", strategy=strategy, logger=False, **options)

    with pytest.raises(UserError, match="needs GPUs, and there is none here"):
        check_strategy(trainer(DeepSpeedStrategy(stage=2)))
    by_value = trainer(DeepSpeedOnCpu(stage=2), gradient_clip_val=1.0, gradient_clip_algorithm="value")
    with pytest.raises(UserError, match="gradient_clip_algorithm is value"):
        check_strategy(by_value)
    check_strategy(trainer(DeepSpeedOnCpu(stage=2), gradient_clip_val=1.0))


SLURM = {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4"}


@pytest.mark.parametrize(
    ("devices", "nodes", "environment", "told"),
    [
        (2, 1, SLURM, "trainer.devices is 2 on 1 nodes, 2 processes in all, but SLURM has started 1; let --ntasks-per"),
        (8, 2, SLURM | {"SLURM_NTASKS": "8"}, "16 processes in all, but SLURM has started 8"),
        ([0, 1], 1, TORCHRUN, "2 processes in all, but torchrun has started 4; let --nproc-per-node"),
        ("0,1", 1, TORCHRUN, "2 processes in all"),
    ],
)
def test_another_number_of_processes_than_was_started_is_refused(
    devices: object, nodes: int, environment: dict[str, str], told: str
) -> None:
    with pytest.raises(UserError) as refused:
        check_world(devices, nodes, environment)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("devices", "environment"),
    [(4, TORCHRUN), ("auto", TORCHRUN), (-1, TORCHRUN), (1, SLURM), (2, {}), (2, SLURM | {"SLURM_JOB_NAME": "bash"})],
)
def test_the_number_that_was_started_or_none_that_anybody_has_said_is_taken(
    devices: object, environment: dict[str, str]
) -> None:
    check_world(devices, 1, environment)
