import pytest

from lit_avg.studies.launchers.resources import cores, crowding, deal, visible_gpus
from lit_avg.utils.errors import UserError


def test_gpus_are_dealt_out_among_the_runs() -> None:
    assert deal(2, ["0", "1", "2", "3"]) == ["0,2", "1,3"]
    assert deal(3, ["0", "1"]) == ["0", "1", "0"]
    assert deal(2, []) == [None, None]
    with pytest.raises(UserError, match="--jobs must be at least 1, but is 0"):
        deal(0, [])


def test_the_gpus_that_a_person_has_chosen_are_those_that_are_dealt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-5")
    assert visible_gpus() == ["2", "GPU-5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_runs_that_crowd_the_cores_are_told_of() -> None:
    assert crowding(1, cores()) == []
    (told,) = crowding(cores() + 1, 1)
    assert told.endswith(f"--jobs {cores()} would not crowd them")
