"""One config run twice, left alone and killed again and again, and what must be equal then."""

import json
import multiprocessing
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Timer

from lit_avg.cli import main
from lit_avg.runs.consolidation import SAVING_KEY, weights_path
from tests.killing import PRELOADED

SECONDS = 300

STOPPED = " stopped"
"""Mark of a validation that a stop may have brought forward."""


@dataclass(frozen=True)
class Life:
    """One process of a run: how it ends, and what it is told beside."""

    moment: str = ""  # of being killed; none: it comes to its end
    count: int = 1
    options: tuple[str, ...] = ()
    after_saving: bool = False  # kill behind the callbacks that save, not before them

    @property
    def argv(self) -> list[str]:
        """Options of `lit-avg fit`."""
        if not self.moment:
            return list(self.options)
        name = "KilledAfterSaving" if self.after_saving else "Killed"
        callback = {"class_path": f"tests.killing.{name}", "init_args": {"moment": self.moment, "count": self.count}}
        return [*self.options, f"--trainer.callbacks+={json.dumps(callback)}"]


class Validations(L.Callback):
    """Writes down each validation into `validations.txt`; one that is done again after a kill is there twice."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        at = f"{trainer.fit_loop.total_batch_idx} {trainer.global_step} {trainer.current_epoch}"
        with (Path(trainer.default_root_dir) / "validations.txt").open("a") as file:
            file.write(f"{at} {trainer.callback_metrics['val/loss'].item()!r}{STOPPED * trainer.should_stop}\n")


class BatchTimer(Timer):
    """`max_time` on a clock that ticks with each batch of the whole run, so that a test knows when it is over."""

    def __init__(self, batches: int) -> None:
        super().__init__("00:00:00:01")
        self.batches = batches

    def _check_time_remaining(self, trainer: L.Trainer) -> None:
        trainer.should_stop = trainer.should_stop or trainer.fit_loop.total_batch_idx + 1 >= self.batches


def live(folder: Path, config: str, options: Sequence[str], lives: Sequence[Life]) -> list[int]:
    """Run one process after the other on one run; tells how each ended, minus the signal's number if by a signal."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, "tests.continuation", "tests.drawn"])
    ends, ours = context.Pipe(duplex=False)
    process = context.Process(target=_lives, args=(ours, folder, config, list(options), list(lives)))
    process.start()
    ours.close()
    if not ends.poll(SECONDS):
        process.kill()
        raise TimeoutError(f"{folder} did not end")
    return cast(list[int], ends.recv())


def _lives(ends: Any, folder: Path, config: str, options: list[str], lives: list[Life]) -> None:
    ends.send(lives_of(folder, config, options, lives))


def lives_of(
    folder: Path, config: str, options: Sequence[str], lives: Sequence[Life], ports: Iterator[int] | None = None
) -> list[int]:
    """Fork for each life: what is imported is there, and no thread of torch's has been started yet.

    Args:
        folder: of the run.
        config: of the stage.
        options: of `lit-avg fit`, for all lives.
        lives: one after the other.
        ports: of several ranks, each of which calls this, where they meet in each life.
    """
    folder.mkdir(parents=True, exist_ok=True)
    statuses = list[int]()
    for life in lives:
        port = next(ports) if ports is not None else None
        child = os.fork()
        if child == 0:
            if port is not None:
                os.environ["MASTER_PORT"] = str(port)
            told = f"--trainer.callbacks+={json.dumps({'class_path': 'tests.continuation.Validations'})}"
            common = ["--config", config, "--run_root", str(folder), "--resume", "auto", told]
            _life(folder, [*common, "--data.init_args.workers", "0", *options, *life.argv])
        status = os.waitpid(child, 0)[1]
        statuses.append(os.waitstatus_to_exitcode(status))
    return statuses


def _life(folder: Path, argv: list[str]) -> None:
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of the loader's workers: as in a run from a shell
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    tempfile.tempdir = str(temporary)
    status = 70
    try:
        status = main(["fit", *argv])
    except BaseException:
        import traceback

        traceback.print_exc()
    os._exit(status)


def differences(whole: Path, killed: Path) -> list[str]:
    """What is not equal between two runs: losses, results, validations, and everything in the checkpoint."""
    differing = [name for name in ("losses.csv", "selection.csv") if _text(whole / name) != _text(killed / name)]
    first, second = (json.loads((run / "result.json").read_text()) for run in (whole, killed))
    differing += [name for name in ("metrics", "steps") if first[name] != second[name]]
    due = {line.removesuffix(STOPPED) for line in _validations(whole)}
    done = [line for line in _validations(killed) if not line.endswith(STOPPED) or line.removesuffix(STOPPED) in due]
    if due != {line.removesuffix(STOPPED) for line in done}:
        differing.append("validations")
    checkpoints = [torch.load(weights_path(str(run)), weights_only=True) for run in (whole, killed)]
    for checkpoint in checkpoints:
        checkpoint.pop(SAVING_KEY, None)
        loops = checkpoint.pop("loops")["fit_loop"]
        checkpoint["loops"] = [loops["epoch_progress"], loops["epoch_loop.batch_progress"], loops["state_dict"]]
        checkpoint["callbacks"] = {
            name: state for name, state in checkpoint["callbacks"].items() if "Timer" not in name and "Kill" not in name
        }
    return differing + _differing(*checkpoints)


def _text(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def _validations(run: Path) -> list[str]:
    return (_text(run / "validations.txt") or "").splitlines()


def _differing(first: Any, second: Any, name: str = "checkpoint") -> list[str]:
    """The names of the leaves of two nested things that are not equal."""
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [name]
    if isinstance(first, dict):
        if set(cast(dict[str, Any], first)) != set(second):
            return [f"{name}: {sorted(map(str, set(first) ^ set(second)))}"]
        return [one for key in first for one in _differing(first[key], second[key], f"{name}.{key}")]
    if isinstance(first, list | tuple):
        pairs = list(enumerate(zip(first, second, strict=True)))
        return [one for number, pair in pairs for one in _differing(*pair, f"{name}.{number}")]
    return [] if first == second else [f"{name}: {first} != {second}"]
