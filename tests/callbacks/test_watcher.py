"""A watcher that fails tells so once, and the run goes on without it to the same results."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
import yaml

import callbacks
from callbacks.watcher import ERRORS, HOOKS, Watcher
from lit_avg.cli import main
from lit_avg.utils.errors import UserError
from tests.tiny_run import write_stage

RESULTS = {"LossRecord", "LastCheckpoint", "Preemption", "PredictionsWriter", "ResultsWriter", "SaveConfig"}
"""Callbacks whose output is what a run is made for."""

WATCHERS = {name: getattr(callbacks, name) for name in callbacks.__all__ if name not in {*RESULTS, "Watcher"}}

GUARDED = [(name, hook) for name, watcher in WATCHERS.items() for hook in sorted(HOOKS & set(vars(watcher)))]


def test_every_callback_is_a_watcher_or_writes_results() -> None:
    assert {name for name in callbacks.__all__ if issubclass(getattr(callbacks, name), Watcher)} == {
        *WATCHERS,
        "Watcher",
    }
    base = yaml.safe_load((Path(__file__).parents[2] / "experiments" / "base.yaml").read_text())
    shipped = {entry["class_path"].removeprefix("callbacks.") for entry in base["trainer"]["callbacks"]}
    assert shipped <= {*WATCHERS, *RESULTS}


@pytest.mark.parametrize(("name", "hook"), GUARDED)
def test_no_hook_of_a_watcher_ends_a_run(
    name: str, hook: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = WATCHERS[name]()
    trainer = SimpleNamespace(default_root_dir=str(tmp_path))  # of which any question is one too many
    for _ in range(2):
        getattr(watcher, hook)(trainer, None, *[None] * 4 if "batch" in hook else [])
    failed = [record.getMessage() for record in caplog.records]
    if not watcher.off:  # it only starts a clock
        assert failed == []
        return
    assert len(failed) == 1
    assert failed[0].startswith(f"{name}.{hook}: ")
    assert "training goes on without it" in failed[0]
    assert "Traceback" in (tmp_path / ERRORS).read_text()


def test_what_is_the_users_to_mend_still_ends_the_run(tmp_path: Path) -> None:
    for error in (UserError("mend this"), MemoryError(), torch.OutOfMemoryError(), KeyboardInterrupt()):

        class Raises(Watcher):
            def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule, error: Any = error) -> None:
                raise error

        with pytest.raises(type(error)):
            Raises().on_fit_start(SimpleNamespace(default_root_dir=str(tmp_path)), None)  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / ERRORS).exists()


class Fails(Watcher):
    """Fails in one hook.

    Args:
        hook: which.
    """

    def __init__(self, hook: str) -> None:
        self.hook = hook

    def _fail(self, hook: str) -> None:
        if hook == self.hook:
            raise RuntimeError("nothing\nworks")

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._fail("setup")

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        self._fail("on_train_batch_end")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._fail("on_validation_end")


@pytest.mark.parametrize("hook", ["setup", "on_train_batch_end", "on_validation_end"])
def test_a_run_comes_to_the_same_end_without_its_watcher(
    hook: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ends = list[tuple[bytes, Any]]()
    for name, failing in (("whole", "none"), ("failing", hook)):
        (tmp_path / name).mkdir()
        stage = write_stage(tmp_path / name, "RGLF")
        more = json.dumps({"class_path": "tests.callbacks.test_watcher.Fails", "init_args": {"hook": failing}})
        assert main(["fit", "--config", stage, "--trainer.callbacks+", more]) == 0
        run = tmp_path / name / "runs" / "RGLF"
        ends.append(((run / "losses.csv").read_bytes(), json.loads((run / "result.json").read_text())["metrics"]))
    assert ends[0] == ends[1]
    told = [record.getMessage() for record in caplog.records if "Fails" in record.getMessage()]
    assert len(told) == 1
    assert told[0].startswith(f"Fails.{hook}: RuntimeError: nothing works; training goes on without it, see ")
