"""Where feedback is computed: each process of a writer has one device of its own."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric.accelerators.cpu import CPUAccelerator
from lightning.fabric.accelerators.cuda import CUDAAccelerator
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lit_avg.utils.errors import UserError

GPUS = ("auto", "gpu", "cuda")
"""Accelerators that are NVIDIA's, where there are any."""


@dataclass(frozen=True)
class Place:
    """One device, as Lightning is asked for it."""

    accelerator: str
    devices: list[int] | int


def feedback_devices(trainer: Mapping[str, Any], devices: str | None = None) -> list[Place]:
    """The devices that this process, and those that it starts, compute on.

    Args:
        trainer: the config's, for its `accelerator` and `devices`.
        devices: as `--devices` says: a number, a list of GPUs as `0,2`, `all` or `auto`; None for the trainer's.

    Raises:
        UserError: there are fewer of them.
    """
    asked = trainer["devices"] if devices is None else devices
    others, accelerator = _process_of_others(), trainer["accelerator"]
    if others is not None and devices is not None:
        raise UserError("--devices: several processes were started, each of which takes one device; leave it out")
    if accelerator in GPUS and (torch.cuda.is_available() or accelerator != "auto"):
        there = CUDAAccelerator.auto_device_count()
        if not there:
            raise UserError(f"trainer.accelerator is {accelerator}, but no GPU is seen here")
        if others is not None:
            return [Place("cuda", [others % there])]
        gpus = _parsed(CUDAAccelerator, there if asked in ("all", "auto") else asked)
        return [Place("cuda", [gpu]) for gpu in gpus]
    if accelerator in (*GPUS, "cpu"):
        count = 1 if others is not None or asked in ("all", "auto") else _parsed(CPUAccelerator, asked)
        return [Place("cpu", 1)] * count
    return [Place(accelerator, 1)]


def _process_of_others() -> int | None:
    """This process' number on its machine, where it was started as one of several by SLURM or torchrun."""
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return int(os.environ["SLURM_LOCALID"])
    elastic = TorchElasticEnvironment.detect() and TorchElasticEnvironment().world_size() > 1
    return TorchElasticEnvironment().local_rank() if elastic else None


def _parsed(accelerator: type[CPUAccelerator | CUDAAccelerator], devices: Any) -> Any:
    named = f"--devices, or the config's trainer.devices, is {devices}"
    try:
        parsed = accelerator.parse_devices(devices)
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise UserError(f"{named}: {' '.join(str(error).split())}") from error
    if not parsed:
        raise UserError(f"{named}, but feedback is computed on at least one")
    return parsed
