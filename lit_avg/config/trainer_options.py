"""What a config asks of Lightning's Trainer, checked before anything is built.

Lightning finds some mistakes when a run has begun, others never: a clipping value that is no number, an interval of 0.
"""

import os
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import lightning as L
from jsonargparse import Namespace
from lightning.pytorch.accelerators import AcceleratorRegistry, CPUAccelerator, CUDAAccelerator
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, StrategyRegistry
from lightning.pytorch.utilities import GradClipAlgorithmType

from lit_avg.utils.arguments import check_number
from lit_avg.utils.errors import UserError
from lit_avg.utils.yaml_reader import read_yaml

_LEAST = {
    "num_nodes": 1,
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "log_every_n_steps": 1,
    "min_epochs": 0,
    "min_steps": 0,
    "num_sanity_val_steps": -1,
    "gradient_clip_val": 0,
}
"""The smallest value that means something."""

_ABOVE_NOTHING = ("limit_train_batches", "val_check_interval")
"""Numbers of batches, or shares of them, that must not be 0."""

_PROCESSES_PER_CORE = 4
"""At most, where a run has no accelerator: to try several ranks takes few, and more of them bring down the machine."""

_ENDS = ("max_steps", "max_epochs")
"""Where training ends; -1 for no such end."""


def check_trainer(trainer: object) -> None:
    """Refuse options of the trainer that cannot be meant.

    Args:
        trainer: that section of a config, as it was parsed.

    Raises:
        UserError: names the option, its value and what is wrong with it.
    """
    if not isinstance(trainer, Namespace):
        raise UserError(f"trainer must be a section of options, as in trainer: {{max_steps: 100}}, but is {trainer}")
    options = cast(Mapping[str, Any], vars(trainer))
    for name, least in _LEAST.items():
        if (value := options[name]) is not None:
            check_number(f"trainer.{name}", value, least=least)
    for name in _ENDS:
        if (value := options[name]) not in (None, -1):
            check_number(f"trainer.{name}", value, least=1)
    if options["val_check_interval"] == options["max_steps"] == -1:  # the one is the other, if nobody says otherwise
        raise UserError(
            "trainer.max_steps is -1, so that trainer.val_check_interval must say how often to validate: a number of "
            "batches, or with check_val_every_n_epoch: 1 a share of an epoch, such as 1.0"
        )
    for name in _ABOVE_NOTHING:
        if isinstance(value := options[name], int | float):
            check_number(f"trainer.{name}", value, above=0)
    if set(re.findall("[0-9]", str(time := options["max_time"]))) == {"0"}:
        raise UserError(f"trainer.max_time is {time}, so nothing would be trained; give it a time, as in 00:12:00:00")
    if not str(options["default_root_dir"] or "").strip():
        raise UserError("trainer.default_root_dir is empty, but must name the folder of the run")
    _check_name("accelerator", options["accelerator"], ["auto", "gpu", *sorted(AcceleratorRegistry)])
    _check_name("strategy", options["strategy"], ["auto", *StrategyRegistry.available_strategies()])
    _check_devices(options["devices"])


def check_world(devices: object, nodes: object, environment: Mapping[str, str]) -> None:
    """Refuse another number of processes than was started from outside.

    Args:
        devices: of the trainer, on each node.
        nodes: of the trainer.
        environment: of the process; SLURM and torchrun say there how many they have started.

    Raises:
        UserError: both numbers.
    """
    by_slurm = "SLURM_NTASKS" in environment and environment.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    by_torchrun = "TORCHELASTIC_RUN_ID" in environment and "WORLD_SIZE" in environment
    each = str(devices).strip("[] ")
    if not (by_slurm or by_torchrun) or each in ("auto", "-1"):
        return
    wanted = (len(each.split(",")) if isinstance(devices, list) or "," in each else int(each)) * cast(int, nodes)
    started = int(environment["WORLD_SIZE" if by_torchrun else "SLURM_NTASKS"])
    if wanted != started and wanted > 1:
        who, mend = ("torchrun", "--nproc-per-node") if by_torchrun else ("SLURM", "--ntasks-per-node")
        raise UserError(
            f"trainer.devices is {devices} on {nodes} nodes, {wanted} processes in all, but {who} has started "
            f"{started}; let {mend} be the number of devices"
        )


def check_installed(strategy: object) -> None:
    """Refuse a strategy of a library that is not here, before anything is built.

    Args:
        strategy: the trainer's, as it was parsed: a name, or a class path with its arguments.

    Raises:
        UserError: says how to have it.
    """
    name = strategy if isinstance(strategy, str) else str(getattr(strategy, "class_path", ""))
    if "deepspeed" in name.lower() and find_spec("deepspeed") is None:
        raise UserError(
            "trainer.strategy is DeepSpeed's, which is not installed; pip install -e '.[cluster]', or lay "
            "experiments/strategies/fsdp2.yaml or ddp.yaml over the stage"
        )


def check_strategy(trainer: L.Trainer) -> None:
    """Refuse what a strategy cannot do, before weights and data are read.

    Raises:
        UserError: names the option.
    """
    strategy = trainer.strategy
    if not isinstance(strategy, DeepSpeedStrategy):
        return
    if trainer.gradient_clip_algorithm == GradClipAlgorithmType.VALUE and trainer.gradient_clip_val:
        raise UserError("trainer.gradient_clip_algorithm is value, but DeepSpeed clips by norm alone; leave it out")
    needs_gpus = type(strategy).setup_environment is DeepSpeedStrategy.setup_environment
    if needs_gpus and not isinstance(trainer.accelerator, CUDAAccelerator):
        raise UserError(
            "trainer.strategy is DeepSpeed's, which needs GPUs, and there is none here; lay "
            "experiments/strategies/ddp.yaml over the stage, or name --trainer.strategy auto"
        )


def _check_name(option: str, value: object, known: Sequence[str]) -> None:
    if isinstance(value, str) and value.lower() not in known:
        raise UserError(f"trainer.{option} must be one of {', '.join(known)}, but is {value}")


def _check_devices(devices: object) -> None:
    """`auto`, -1 for all, how many, or their numbers, as a list or with commas."""
    numbers = devices.split(",") if isinstance(devices, str) else devices if isinstance(devices, list) else [devices]
    each = [str(number).strip() for number in cast(list[object], numbers)]
    alone = len(each) == 1 and (each[0] in ("auto", "-1") or (each[0].isdigit() and int(each[0]) > 0))
    if not (alone or (len(each) > 1 and all(number.isdigit() for number in each)) or devices == [0]):
        raise UserError(
            f"trainer.devices must be auto, -1 for all, how many there are, or their numbers, but is {devices}"
        )


def is_sharding(strategy: object) -> bool:
    """Whether a strategy, by its name or as it was built, shards a model's training over ranks."""
    if isinstance(strategy, str):
        return strategy.startswith(("deepspeed", "fsdp", "model_parallel"))
    return isinstance(strategy, DeepSpeedStrategy | FSDPStrategy | ModelParallelStrategy)


def check_processes(trainer: L.Trainer) -> None:
    """Refuse to start many more processes than a machine without an accelerator has cores.

    Raises:
        UserError: names how many there are.
    """
    cores = os.cpu_count() or 1
    if isinstance(trainer.accelerator, CPUAccelerator) and trainer.num_devices > _PROCESSES_PER_CORE * cores:
        raise UserError(
            f"trainer.devices is {trainer.num_devices}, but on the CPU each is a process, and this machine has {cores} "
            "cores; lower it, or run where there is an accelerator"
        )


def check_callbacks(trainer: Mapping[str, Any], base: Path) -> list[str]:
    """Names of the callbacks of the base config that a config has dropped.

    Args:
        trainer: that section of a config, as it was parsed.
        base: the base config.

    Raises:
        UserError: none is left that keeps a checkpoint, but there are others: `callbacks:` is not `callbacks+:`.
    """
    given = cast(object, trainer["callbacks"])
    listed = cast(list[Namespace], given if isinstance(given, list) else [given] if given else [])
    names = {_class_name(callback.class_path) for callback in listed}
    standard = cast(list[dict[str, str]], read_yaml(base)["trainer"]["callbacks"])
    dropped = [name for callback in standard if (name := _class_name(callback["class_path"])) not in names]
    if names and not any("Checkpoint" in name for name in names):
        raise UserError(
            f"trainer.callbacks is {', '.join(sorted(names))} alone, in place of all those of {base.name}: the run "
            "would keep no checkpoint and no result. To add to them, write `callbacks+:`"
        )
    return dropped


def replace_standard_callbacks(trainer: Namespace, base: Path) -> None:
    """Let a callback of the base config that a config names again, by `callbacks+:`, take the first one's place.

    Two that save, or that write the same file, would each do it.

    Args:
        trainer: that section of a config, as it was parsed; is changed.
        base: the base config.
    """
    if not isinstance(listed := trainer["callbacks"], list):
        return
    standard = {_class_name(callback["class_path"]) for callback in read_yaml(base)["trainer"]["callbacks"]}
    kept, places = list[Namespace](), dict[str, int]()
    for callback in cast(list[Namespace], listed):
        name = _class_name(callback.class_path)
        if name in standard and name in places:
            kept[places[name]] = callback
            continue
        places[name] = len(kept)
        kept.append(callback)
    trainer["callbacks"] = kept


def _class_name(path: str) -> str:
    return path.rpartition(".")[2]
