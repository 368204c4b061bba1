"""A stage and its data module as a config describes them, with nothing run: for verbs that look at a model."""

from typing import Any

from lightning.pytorch import Trainer

from lit_avg.errors import UserError
from lit_avg.stages.base import Stage
from lit_avg.training_cli import TrainingCLI


class BuildingCLI(TrainingCLI):
    """Parses and builds as fit does, and leaves it at that."""

    def instantiate_trainer(self, **_: Any) -> Trainer:
        """A trainer that needs neither the devices nor the strategy that the run will need."""
        folder = self.config["fit"]["trainer"]["default_root_dir"]
        return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=folder)

    def after_instantiate_classes(self) -> None:
        """Look for no checkpoint: what a run trains does not depend on how far it is."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""

    def config_text(self) -> str:
        """All that the config comes to, class defaults included, as YAML."""
        config = self.config["fit"].clone()
        config.resume = config.ckpt_path = None  # how a run is continued is not what it is
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
