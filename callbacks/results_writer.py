"""`ResultsWriter`: `result.json`, one row for each run, and `outcomes.csv`, one for each test question."""

import csv
import io
import json
import math
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from callbacks.run_context import run_folder, shards_data, stage_and_outcomes
from callbacks.save_config import config_name
from callbacks.token_savings import TokenSavings
from lit_avg.config.saved_config import read_saved
from lit_avg.data import ShardsData
from lit_avg.evaluation.outcomes import Outcomes
from lit_avg.result_names import BEFORE, OUTCOMES, OWN, PARENT, RESULT, RunResult
from lit_avg.runs.consolidation import weights_path
from lit_avg.runs.recorded_hashes import read_result
from lit_avg.stages.base import Stage
from lit_avg.utils.atomic_io import move, write_whole
from lit_avg.utils.errors import UserError
from lit_avg.utils.hashing import file_sha256, hash_of

CODE = ("lit_avg", "datamodules", "callbacks")
"""Where a new file changes what a run does; notes and results beside them do not."""

LIBRARIES = ("torch", "lightning", "transformers")


class ResultsWriter(L.Callback):
    """Writes `result.json` when a fit or a test is over; a test adds to what the fit has written.

    `metrics` holds what two runs with one seed agree on: the last validation's `val/…`, and after a test
    `<policy>/…`. `questions` is a hash of what the test asked. Everything timed is in `seconds`. A fast_dev_run leaves
    no results.
    """

    def __init__(self) -> None:
        self._began = 0.0
        self._questions: str | None = None
        self._validated: dict[str, float] = {}
        self._loaded_at = -1

    def state_dict(self) -> dict[str, Any]:
        """The last validation's metrics: a run that was killed behind it goes on to its end without another."""
        return {"validated": self._validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them over."""
        self._validated = dict(state_dict["validated"])

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note what step the run goes on from."""
        self._loaded_at = checkpoint["global_step"]

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Forget the hash of a finished run that is fitted on, and its test: the checkpoint will be another one."""
        path = Path(trainer.default_root_dir) / RESULT
        if not trainer.is_global_zero or not path.is_file():
            return
        result = read_result(path)
        if (known := result.get("checkpoint", {})).get(OWN):
            result["checkpoint"] = known | {OWN: None, BEFORE: None}
            write_whole(path, _text(result))
        if trainer.global_step > result.get("steps", 0):
            _forget_test(path, result)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note what came out."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._validated = {name: value for name, value in _metrics(trainer).items() if name.startswith("val/")}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write down every question's outcomes."""
        found = stage_and_outcomes(trainer, pl_module)
        if found is not None:
            module, outcomes = found
            chosen = {name: outcomes.chosen_by(policy) for name, policy in module.policies.items()}
            write_whole(run_folder(trainer) / OUTCOMES, outcomes_csv(outcomes, chosen))
            self._questions = questions_digest(shards_data(trainer), outcomes.keys)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write the result, now that everybody else is done."""
        verb = TrainerFn(stage).value
        if verb not in ("fit", "test") or not trainer.is_global_zero:
            return
        if trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]  Lightning sets it in a connector
            return
        path = run_folder(trainer) / RESULT
        earlier = read_result(path) if path.is_file() else RunResult()
        if verb == "fit" and 0 < trainer.global_step == self._loaded_at == earlier.get("steps"):
            known = earlier.get("checkpoint", {})
            if known[OWN] is None:  # it had come to its end before, and there is nothing else to add
                earlier["checkpoint"] = known | {OWN: _sha256(path.parent)}
                write_whole(path, _text(earlier))
            return
        earlier = earlier if verb == "test" else RunResult(metrics=self._validated)
        result = _describe(trainer, pl_module, verb)
        fitted = {name: value for name, value in earlier.items() if name in ("seed", "steps", "config")}
        result |= cast(RunResult, fitted)
        # what an earlier test found out of other questions is told nowhere beside this one's
        same = verb == "fit" or earlier.get("questions") == self._questions
        result["metrics"] = (earlier.get("metrics", {}) if same else _validated(earlier)) | _metrics(trainer)
        result["questions"] = self._questions
        result["seconds"] = earlier.get("seconds", {}) | {verb: round(time.perf_counter() - self._began, 2)}
        write_whole(path, _text(result))


def _forget_test(path: Path, result: RunResult) -> None:
    """What a test found out of earlier weights is none of the run's results any more; its rows get another name."""
    validated = _validated(result)
    outcomes = path.with_name(OUTCOMES)
    if outcomes.is_file():
        move(outcomes, outcomes.with_stem(f"{outcomes.stem}.step-{result.get('steps')}"))
    if validated != result.get("metrics", {}):
        write_whole(path, _text({**result, "metrics": validated, "questions": None}))


def _validated(result: RunResult) -> dict[str, float]:
    """The validation's part of a result's metrics."""
    return {name: value for name, value in result.get("metrics", {}).items() if name.startswith("val/")}


def questions_digest(data: ShardsData | None, keys: Sequence[str]) -> str:
    """Hash of what a test asked: the samples of its split, as far as the data tells, and the keys of the questions."""
    samples = None if data is None else data.data_digest("test")
    return hash_of("\n".join([samples or "", *sorted(keys)]), 16)


def is_changed(folder: Path) -> bool:
    """Whether the code is another than the commit's: a tracked file, or a new one of a package.

    Args:
        folder: one of the packages.
    """
    root = folder.parent
    new = _git(root, "ls-files", "--others", "--exclude-standard", "--", *CODE)
    return bool(_git(root, "status", "--porcelain", "--untracked-files=no") or new)


def outcomes_csv(outcomes: Outcomes, chosen: Mapping[str, Tensor]) -> str:
    """One row a question: key, kind, image, tiles, text tokens, what happened at each level, and what policies chose.

    Args:
        outcomes: Q questions at N granularities.
        chosen: the level that each policy chooses for each question, (Q,); written as `chosen@<policy>`, in tokens.
    """
    measured = {"correct": outcomes.correct.int(), "feedback": outcomes.feedback, "score": outcomes.scores}
    measured["visual_tokens"] = outcomes.visual_tokens
    columns = {name: values for name, values in measured.items() if values is not None}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [f"{name}@{tokens}" for name in columns for tokens in outcomes.granularities.tokens]
    told = {"key": outcomes.keys, "kind": outcomes.kinds, "image": outcomes.images}
    told |= {"tiles": outcomes.tiles.tolist(), "text_tokens": outcomes.text_tokens.tolist()}
    known = {name: values for name, values in told.items() if values}
    writer.writerow([*known, *names, *(f"chosen@{policy}" for policy in chosen)])
    levels = [levels.tolist() for levels in chosen.values()]
    for row, described in enumerate(zip(*known.values(), strict=True)):
        values = [round(value, 6) for tensor in columns.values() for value in tensor[row].tolist()]
        writer.writerow([*described, *values, *(outcomes.granularities.tokens[level[row]] for level in levels)])
    return text.getvalue()


def _describe(trainer: L.Trainer, module: L.LightningModule, verb: str) -> RunResult:
    """What the run is, as far as that can be looked up now."""
    folder = run_folder(trainer)
    path = folder / config_name(verb)
    config = read_saved(path) if path.is_file() else {}
    source = Path(__file__).parent
    parent = module.begun_from if isinstance(module, Stage) else None
    data = shards_data(trainer)
    return {
        "run": folder.name,
        "stage": type(module).__name__,
        "seed": config.get("seed_everything"),
        "steps": trainer.global_step,
        "config": _json(config),
        "metrics": {},
        "commit": _git(source, "rev-parse", "HEAD"),
        "dirty": is_changed(source),
        "data": None if data is None else data.manifest_hash,
        "checkpoint": {OWN: _sha256(folder), PARENT: parent and parent["sha256"]},
        "versions": {"python": platform.python_version()} | {library: version(library) for library in LIBRARIES},
        "machine": {"host": platform.node(), "threads": torch.get_num_threads()},
        "seconds": {},
    }


def _metrics(trainer: L.Trainer) -> dict[str, float]:
    """Last values, sorted by name: `val/…` as they are, `test/…` without their prefix.

    Raises:
        UserError: one is not finite, and so is no result.
    """
    values = {name: value.item() for name, value in trainer.callback_metrics.items()}
    kept = {name: value for name, value in values.items() if name.startswith("val/")}
    kept |= {name.removeprefix("test/"): value for name, value in values.items() if name.startswith("test/")}
    for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]  set in a connector
        if isinstance(callback, TokenSavings):
            kept |= callback.results
    if bad := [f"{name} is {value}" for name, value in kept.items() if not math.isfinite(value)]:
        raise UserError(
            f"step {trainer.global_step}: {', '.join(bad[:3])}, which is no result; {RESULT} is not written"
        )
    return dict(sorted(kept.items()))


def _json(value: object) -> object:
    """A part of a config as JSON has it; numbers that JSON lacks are written as in YAML, `.nan` and `.inf`."""
    if isinstance(value, dict):
        return {str(name): _json(inner) for name, inner in cast(dict[object, object], value).items()}
    if isinstance(value, list):
        return [_json(inner) for inner in cast(list[object], value)]
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return value


def _sha256(run: Path) -> str | None:
    """Of the newest weights in a run's directory; None where there are none."""
    path = weights_path(str(run))
    return file_sha256(path) if path.is_file() else None


def _text(result: RunResult) -> str:
    return json.dumps(result, indent=2, allow_nan=False) + "\n"


def _git(folder: Path, *command: str) -> str | None:
    """What git says; None outside a clone or without git."""
    try:
        done = subprocess.run(
            ["git", *command], cwd=folder, capture_output=True, text=True, check=True, encoding="utf-8"
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
