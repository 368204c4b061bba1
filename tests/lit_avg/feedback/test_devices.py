"""Which devices feedback is computed on: those that are asked for, a process each."""

from typing import Any

import pytest
import torch

from lit_avg.feedback.devices import Place, feedback_devices
from lit_avg.utils.errors import UserError

ON_CPU = [Place("cpu", 1)]


@pytest.fixture(autouse=True)
def by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr("lightning.fabric.accelerators.cuda.num_cuda_devices", lambda: count)


@pytest.mark.parametrize(
    ("accelerator", "configured", "asked", "there", "devices"),
    [
        ("auto", "auto", None, 0, ON_CPU),
        ("auto", 2, None, 0, ON_CPU * 2),
        ("auto", 8, "1", 0, ON_CPU),
        ("auto", 1, "all", 0, ON_CPU),
        ("cpu", "auto", None, 4, ON_CPU),
        ("cpu", "auto", "3", 4, ON_CPU * 3),
        ("auto", "auto", None, 2, [Place("cuda", [0]), Place("cuda", [1])]),
        ("gpu", 1, "all", 2, [Place("cuda", [0]), Place("cuda", [1])]),
        ("auto", 1, None, 2, [Place("cuda", [0])]),
        ("auto", [1, 3], None, 4, [Place("cuda", [1]), Place("cuda", [3])]),
        ("auto", 8, "1,3", 4, [Place("cuda", [1]), Place("cuda", [3])]),
        ("auto", -1, None, 2, [Place("cuda", [0]), Place("cuda", [1])]),
        ("mps", "auto", None, 0, [Place("mps", 1)]),
    ],
)
def test_a_process_for_each_device_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
    accelerator: str,
    configured: Any,
    asked: str | None,
    there: int,
    devices: list[Place],
) -> None:
    gpus(monkeypatch, there)
    assert feedback_devices({"accelerator": accelerator, "devices": configured}, asked) == devices


@pytest.mark.parametrize(("there", "device"), [(0, ON_CPU[0]), (8, Place("cuda", [5])), (1, Place("cuda", [0]))])
def test_one_of_several_tasks_of_slurm_takes_the_device_of_its_number(
    monkeypatch: pytest.MonkeyPatch, there: int, device: Place
) -> None:
    gpus(monkeypatch, there)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "16")
    monkeypatch.setenv("SLURM_LOCALID", "5")
    assert feedback_devices({"accelerator": "auto", "devices": 8}) == [device]
    with pytest.raises(UserError, match="--devices: several processes were started"):
        feedback_devices({"accelerator": "auto", "devices": 8}, "8")


def test_one_of_torchruns_processes_takes_the_device_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 4)
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    assert feedback_devices({"accelerator": "auto", "devices": 4}) == [Place("cuda", [3])]


@pytest.mark.parametrize(
    ("accelerator", "asked", "there", "told"),
    [
        ("auto", "3", 2, "trainer.devices, is 3: You requested gpu: .0, 1, 2. But your machine only has: .0, 1."),
        ("auto", "0", 2, "is 0, but feedback is computed on at least one"),
        ("auto", "0", 0, "is 0: `devices` selected with `CPUAccelerator` should be an int > 0"),
        ("auto", "many", 0, "is many: "),
        ("auto", "many", 2, "is many: "),
        ("gpu", "2", 0, "trainer.accelerator is gpu, but no GPU is seen here"),
    ],
)
def test_devices_that_are_not_there_are_refused(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, asked: str, there: int, told: str
) -> None:
    gpus(monkeypatch, there)
    with pytest.raises(UserError, match=told):
        feedback_devices({"accelerator": accelerator, "devices": 1}, asked)
