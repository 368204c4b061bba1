"""`SaveConfig`: the config beside the results, in a form that runs again."""

from pathlib import Path

import lightning as L
import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.run_context import run_folder
from lit_avg.config.parser import TrainingParser
from lit_avg.config.saved_config import as_saved
from lit_avg.utils.atomic_io import move, write_whole
from lit_avg.utils.yaml_reader import StrictLoader, dump_yaml


class SaveConfig(SaveConfigCallback):
    """Writes `config.yaml` when a fit begins, `config.<verb>.yaml` for the other verbs.

    See `lit_avg.config.saved_config`.

    A second run into the same directory is no error: where its config differs, the earlier one is kept as
    `config.1.yaml`, `config.2.yaml` and so on.

    Args:
        parser: the verb's parser.
        config: what it parsed.
    """

    def __init__(self, parser: LightningArgumentParser, config: Namespace) -> None:
        super().__init__(parser, config, save_to_log_dir=False)

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write the file; called on the first rank, once a run."""
        path = run_folder(trainer) / config_name(TrainerFn(stage).value)
        config = self.config.clone()
        config.resume = config.ckpt_path = None  # how this run was continued is not what it is
        config.pop("overwrite", None)
        content = yaml.load(self.parser.dump(config, skip_none=False), StrictLoader)
        unresolved = self.parser.unresolved if isinstance(self.parser, TrainingParser) else {}
        text = dump_yaml(as_saved(content, unresolved))
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            move(path, _free_name(path))
        write_whole(path, text)


def config_name(verb: str) -> str:
    """Name of the file for `fit`, `validate`, `test` or `predict`."""
    return "config.yaml" if verb == "fit" else f"config.{verb}.yaml"


def _free_name(path: Path) -> Path:
    number = 1
    while (candidate := path.with_suffix(f".{number}.yaml")).exists():
        number += 1
    return candidate
