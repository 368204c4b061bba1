"""A stage and its data module as a config describes them, with nothing run: for verbs that look at a model."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from lit_avg.commands.fit import TrainingCLI
from lit_avg.llava_next.backbone import BACKBONE_PARTS
from lit_avg.llava_next.hf_model import weights_to_come
from lit_avg.runs.consolidation import weights_path
from lit_avg.runs.run_folder import run_of
from lit_avg.stages.base import Stage
from lit_avg.training.handover import read_checkpoint
from lit_avg.utils.errors import UserError

OF_WEIGHTS = ("bf16-true", "16-true", "64-true", "64", 64)
"""Lightning's names of those precisions, beside float32, that weights are held in; the others are of products alone."""


class BuildingCLI(TrainingCLI):
    """Parses and builds as fit does, and leaves it at that."""

    def instantiate_trainer(self, **_: Any) -> Trainer:
        """A trainer that needs neither the devices nor the strategy that the run will need, with weights like its."""
        options = self.config["fit"]["trainer"]
        return Trainer(
            accelerator="cpu",
            precision=options["precision"] if options["precision"] in OF_WEIGHTS else None,
            logger=False,
            enable_checkpointing=False,
            default_root_dir=options["default_root_dir"],
        )

    def check_world(self) -> None:
        """Start nothing."""

    def instantiate_classes(self) -> None:
        """As fit does, but for the strategy, which may be of a library that is not installed here."""
        config, self.config = self.config, self.config.clone()
        self.config["fit"]["trainer"]["strategy"] = "auto"
        try:
            super().instantiate_classes()
        finally:
            self.config = config

    def after_instantiate_classes(self) -> None:
        """Look for no checkpoint: what a run trains does not depend on how far it is."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""

    def config_text(self) -> str:
        """All that the config comes to, class defaults included, as YAML."""
        config = self.config["fit"].clone()
        config.resume = config.ckpt_path = None  # how a run is continued is not what it is
        config.pop("overwrite", None)
        return self._parser("fit").dump(config, skip_none=False)

    @property
    def stage(self) -> Stage:
        """The stage.

        Raises:
            UserError: the config runs something else.
        """
        if not isinstance(self.model, Stage):
            raise UserError(f"{type(self.model).__name__} trains no AvgLlava; lit_avg.stages has those that do")
        return self.model


def outline_model(stage: Stage) -> None:
    """Give a stage its model on torch's meta device: nothing is drawn, held, or fetched but configs."""
    with torch.device("meta"), weights_to_come(BACKBONE_PARTS):
        stage.model = stage.make_model()


def finished_run(source: str) -> tuple[BuildingCLI, Path]:
    """What a run was made of, by the config beside its checkpoint, and the run's directory.

    Args:
        source: the directory, or a checkpoint in one.

    Raises:
        UserError: there is no checkpoint, or no config beside it.
    """
    path = weights_path(source)
    run = run_of(path)
    for needed in (path, run / "config.yaml"):
        if not needed.is_file():
            raise UserError(f"--ckpt: there is no {needed}; name the directory of a run that has been fitted")
    return BuildingCLI(["fit", "--config", str(run / "config.yaml")]), run


def take_over_trained(stage: Stage, trainer: Trainer, source: str) -> None:
    """Build a finished run's model, put the trained weights into it and leave it in evaluation mode.

    Its weights are in the run's own precision.
    """
    stage.trainer = trainer
    path = weights_path(source)
    checkpoint = read_checkpoint(path)
    stage.find_again(checkpoint, run_of(path))
    with trainer.precision_plugin.module_init_context():
        stage.configure_model()
    trainer.precision_plugin.convert_module(stage)
    stage.on_load_checkpoint(checkpoint)
    stage.load_state_dict(checkpoint["state_dict"], strict=False)  # what is left out has been found by now
    stage.eval()
