"""What several callbacks need: the outcomes of an evaluation, TensorBoard, and the run's folder."""

from pathlib import Path
from typing import cast

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard.writer import SummaryWriter

from lit_avg.data import ShardsData
from lit_avg.evaluation.outcomes import Outcomes
from lit_avg.stages.base import Stage


def stage_and_outcomes(trainer: L.Trainer, module: L.LightningModule) -> tuple[Stage, Outcomes] | None:
    """The stage and what the evaluation that just ended found out; None on all ranks but the first.

    None as well where there is nothing to tell: stage 0, the sanity check.
    """
    if not isinstance(module, Stage) or module.outcomes is None:
        return None
    return (module, module.outcomes) if trainer.is_global_zero and not trainer.sanity_checking else None


def tensorboard(trainer: L.Trainer) -> SummaryWriter | None:
    """TensorBoard's writer, if the run has one."""
    writers = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    return writers[0] if writers else None


def logged_step(trainer: L.Trainer) -> int:
    """The step that Lightning logs by: it counts from 0, so it is one less than the optimiser steps that are done.

    What callbacks log has to have the same, or a run that goes on repeats a number, or hides one.
    """
    return trainer.fit_loop.epoch_loop._batches_that_stepped  # pyright: ignore[reportPrivateUsage]  nothing else tells


def shards_data(trainer: L.Trainer) -> ShardsData | None:
    """The run's data module; None if it is one that tells nothing of its samples."""
    data = cast(object, trainer.datamodule)  # pyright: ignore[reportAttributeAccessIssue]  Lightning sets it elsewhere
    return data if isinstance(data, ShardsData) else None


def run_folder(trainer: L.Trainer) -> Path:
    """The run's directory, made if need be."""
    folder = Path(trainer.default_root_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
