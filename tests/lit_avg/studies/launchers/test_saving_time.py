"""A sweep warns where jobs are told to make room later than they need for it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lit_avg.result_names import SAVING
from lit_avg.studies.launchers.saving_time import warn_told_too_late
from lit_avg.studies.spec.study import load_study


@pytest.mark.parametrize(("save", "warned"), [(40.0, False), (75.5, True)])
def test_a_signal_that_leaves_less_time_than_a_step_and_a_saving_took_is_warned_of(
    save: float, warned: bool, write_study: Callable[..., Path]
) -> None:
    """50 + 40 = 90 seconds, the default; 50 + 75.5 = 125.5 are more, twice of which is 251."""
    study = load_study(write_study(slurm={"time": "1:00:00"}))
    for name, seconds in {"a": {"step": 1, "save": 1}, "b": {"step": 50.0, "save": save, "bytes": 1}}.items():
        run = study.out / "seed-0" / name
        run.mkdir(parents=True)
        (run / SAVING).write_text(json.dumps(seconds))
    (study.out / "seed-0" / "a" / "torn").mkdir()
    (study.out / "seed-0" / "a" / "torn" / SAVING).write_text("{")
    told = warn_told_too_late(study)
    assert len(told) == warned
    if warned:
        assert "90 s before its limit" in told[0]
        assert "seed-0/b took 50 s for a step and 75.5 s to save itself" in told[0]
        assert told[0].endswith("set signal to 251")
