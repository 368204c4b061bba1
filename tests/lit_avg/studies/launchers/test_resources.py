import pytest

from lit_avg.studies.launchers.resources import assign_gpus, cores, visible_gpus, warn_oversubscribed
from lit_avg.utils.errors import UserError


def test_gpus_are_dealt_out_among_the_runs() -> None:
    assert assign_gpus(2, ["0", "1", "2", "3"]) == ["0,2", "1,3"]
    assert assign_gpus(3, ["0", "1"]) == ["0", "1", "0"]
    assert assign_gpus(2, []) == [None, None]
    with pytest.raises(UserError, match="--jobs must be at least 1, but is 0"):
        assign_gpus(0, [])


def test_the_gpus_that_a_person_has_chosen_are_those_that_are_dealt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-5")
    assert visible_gpus() == ["2", "GPU-5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_runs_that_crowd_the_cores_are_told_of() -> None:
    assert warn_oversubscribed(1, cores()) == []
    (told,) = warn_oversubscribed(cores() + 1, 1)
    assert told.endswith(f"--jobs {cores()} would not crowd them")
