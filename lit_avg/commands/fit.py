"""fit, validate, test and predict: LightningCLI, with one run in one directory and no way to mistake one for another.

What differs from LightningCLI: `experiments/base.yaml` is read first; `${…}` sees overlays and the command line; a
checkpoint never changes the config, it has to agree with it; mistakes are told in a line or two.
"""

import logging
import os
import signal
import sys
import warnings
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

import lightning as L
from jsonargparse import set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerStatus
from omegaconf.errors import OmegaConfBaseException

from lit_avg.config.null_values import check_no_null
from lit_avg.config.parser import TrainingParser
from lit_avg.config.parser_messages import mistake_in
from lit_avg.config.saved_config import where_it_lies
from lit_avg.config.trainer_options import (
    check_callbacks,
    check_installed,
    check_processes,
    check_strategy,
    check_trainer,
    check_world,
    is_sharding,
    replace_standard_callbacks,
)
from lit_avg.runs.consolidation import weights_path
from lit_avg.runs.run_folder import LAST_CHECKPOINT, begin_anew, checkpoint_path, fitting, put_back, run_of
from lit_avg.stages.base import RANDOM, Stage
from lit_avg.studies.spec.config_files import named_files
from lit_avg.training.continuation import read_continued
from lit_avg.training.handover import check_same_run, plain, read_checkpoint
from lit_avg.training.rank_watch import RankWatch
from lit_avg.utils.arguments import check_seed, check_validated
from lit_avg.utils.errors import UserError

BASE_CONFIG = Path(__file__).parents[2] / "experiments" / "base.yaml"
"""Read before every --config."""

CONFIG_OPTIONS = ("-c", "--config")

WORDING_KEY = "wording"
"""Entry of a data module's state that tells how conversations became tokens."""

PRETRAINED = "model.init_args.model.init_args.backbone.init_args.pretrained"
"""Where a config names a whole model with trained weights."""

Resume = Literal["none", "auto"]

set_parsing_settings(omegaconf_absolute_to_relative_paths=True)


class TrainingCLI(LightningCLI):
    """Parses, builds and runs one verb.

    Args:
        argv: the verb and its options.
        save_config: the callback that keeps the config beside the results, if it is to be kept.
    """

    def __init__(self, argv: list[str], save_config: type[SaveConfigCallback] | None = None) -> None:
        self.watch = RankWatch()
        interpolating = {"parser_mode": "omegaconf+"}
        each_verb = {verb: {"default_config_files": [str(BASE_CONFIG)], **interpolating} for verb in self.subcommands()}
        super().__init__(
            LightningModule,
            LightningDataModule,
            save_config_callback=save_config,
            seed_everything_default=0,
            parser_kwargs={"prog": "lit-avg", **interpolating, **each_verb},
            parser_class=TrainingParser,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            args=argv,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add our own three options."""
        parser.add_argument("--run_root", type=str, default="runs", help="Folder of the runs, for ${run_root} in YAML.")
        parser.add_argument(
            "--resume",
            type=Resume | None,
            default=None,
            help="auto: go on from the run's own newest checkpoint. A fit does so only if told to, and if there is "
            "one; the other verbs always do, unless told `none`: then they judge the weights the run begins with.",
        )
        parser.add_argument(
            "--overwrite",
            action="store_true",
            help="Let a fit begin anew in a folder that holds a run already; that one is moved aside.",
        )
        # one seed decides everything, the order of the data included
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse `args`, and not, as Lightning would, warn that the process has arguments as well.

        Raises:
            UserError: names the config files that were read, with the line where one is no valid YAML.
        """
        argv = cast(list[str], args)
        for config in _configs(argv):  # where a file is no valid YAML, only a reader of its own can name the line
            if Path(config).is_file():
                named_files(Path(config))
        try:
            self.config = parser.parse_args(_where_they_lie(argv))
            options = self.config[str(self.config["subcommand"])]
            check_seed("seed_everything", options["seed_everything"])
            check_trainer(options["trainer"])
            replace_standard_callbacks(options["trainer"], BASE_CONFIG)
            for section in ("model", "data", "trainer"):
                check_no_null(options.get(section), section)
            if not (options["run_root"] or "").strip():
                raise UserError("run_root is empty, but must name the folder of the runs")
        except (UserError, OmegaConfBaseException) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{reason} ({', '.join(_configs(argv)) or 'no --config given'})") from error
        verb = str(self.config["subcommand"])
        cast(TrainingParser, self._parser(verb)).unresolved = cast(TrainingParser, parser).unresolved.get(verb, {})

    def _parse_ckpt_path(self) -> None:
        """Leave the config as it is: Lightning would overwrite it with the checkpoint's hyperparameters (#21455)."""

    def instantiate_trainer(self, **options: Any) -> Trainer:
        """The trainer; one for debugging writes into a folder that is gone afterwards, whatever its callbacks do."""
        configured = self._get(self.config_init, "trainer")
        self.folder, self._scratch = Path(configured["default_root_dir"] or "."), None
        if configured["fast_dev_run"]:
            self._scratch = TemporaryDirectory(prefix="lit-avg-")
            options["default_root_dir"] = str(Path(self._scratch.name) / self.folder.name)
        if self.subcommand != "fit" and is_sharding(configured["strategy"]):
            options["strategy"] = "auto"  # no gradient or optimiser state to shard, and weights in one file
        trainer = super().instantiate_trainer(**options)
        cast(Any, trainer).callbacks.insert(0, self.watch)
        return trainer

    def instantiate_classes(self) -> None:
        """Build everything; a mistake of the user's is told as such, however deep in the parser it was found.

        Raises:
            UserError: what a constructor had to say.
        """
        self.check_world()
        try:
            super().instantiate_classes()
        except (ValueError, TypeError, ImportError, MisconfigurationException) as error:
            if (mistake := mistake_in(error)) is None:
                raise
            raise mistake from error

    def check_world(self) -> None:
        """Compare what there is with what was asked for, before weights or data are read."""
        trainer = self.config[str(self.subcommand)]["trainer"]
        check_installed(trainer["strategy"])
        check_world(trainer["devices"], trainer["num_nodes"], os.environ)

    def after_instantiate_classes(self) -> None:
        """Choose the checkpoint to go on from, and refuse another run's."""
        check_processes(self.trainer)
        check_strategy(self.trainer)
        if self.subcommand == "fit":
            check_validates(self.trainer)
        self._check_options()
        options = self.config_init[str(self.subcommand)]
        named = options["ckpt_path"]
        checkpoint = str(self._newest(named)) if named else self._own_checkpoint()
        if self.subcommand == "fit":
            self.check_beginning(checkpoint is not None)
        if checkpoint is not None:
            content = self._content(Path(checkpoint))
            check_same_run(content["hyper_parameters"], plain(dict(self.model.hparams)))
            self._check_same_words(content)
            if isinstance(self.model, Stage):
                self.model.find_again(content, run_of(Path(checkpoint)))
        options["ckpt_path"] = checkpoint
        options["weights_only"] = True
        options["verbose"] = False  # of hundreds of metrics a person wants the few that `PolicyTable` prints

    def check_beginning(self, continued: bool = False) -> None:
        """See to it that a fit begins from trained weights, unless it goes on, and leaves a checkpoint and a result.

        Raises:
            UserError: it does not.
        """
        config = self.config["fit"]
        if dropped := check_callbacks(config["trainer"], BASE_CONFIG):
            print(
                f"lit-avg: trainer.callbacks leaves out {', '.join(dropped)} of {BASE_CONFIG.name}; "
                "to add to those, write `callbacks+:`",
                file=sys.stderr,
            )
        if continued or not isinstance(self.model, Stage) or not self.model.starts_from:
            return
        if config["model"]["init_args"]["init_from"] is None and config.get(PRETRAINED) is None:
            stage, before = type(self.model).__name__, " or ".join(self.model.starts_from)
            raise UserError(
                f"init_from is null, but {stage} begins from a run of {before}; name one, or write init_from: {RANDOM} "
                "if random weights are meant"
            )

    def _check_same_words(self, checkpoint: dict[str, Any]) -> None:
        """Have the data refuse another template's checkpoint, also where another data module's class made it."""
        for state in checkpoint.values():
            if isinstance(state, dict) and WORDING_KEY in state:
                self.datamodule.load_state_dict(cast(dict[str, Any], state))

    def _own_checkpoint(self) -> str | None:
        """The run's newest checkpoint where `--resume` asks for it."""
        evaluates = self.subcommand != "fit"
        resume = self._get(self.config, "resume") or ("auto" if evaluates else "none")
        if resume == "none":
            return None
        path = self._newest(str(self.folder / LAST_CHECKPOINT))
        if evaluates and not path.exists():
            raise UserError(
                f"there is no checkpoint at {path}; fit first, name one with --ckpt_path, "
                f"or {self.subcommand} the initial weights with --resume none"
            )
        return str(path) if path.exists() else None

    def _newest(self, source: str) -> Path:
        """What a checkpoint's name means: a fit goes on from what its strategy saved, the rest read whole weights."""
        path = checkpoint_path(source)
        return path if self.subcommand == "fit" and path.exists() else weights_path(source)

    def _content(self, path: Path) -> dict[str, Any]:
        """What a checkpoint says it was made with.

        Raises:
            UserError: nothing is there, it is no checkpoint, or says nothing of its hyperparameters.
        """
        if not path.exists():
            raise UserError(f"there is no checkpoint at {path}")
        content = read_continued(path, self.trainer) if self.subcommand == "fit" else read_checkpoint(path)
        if "hyper_parameters" not in content:
            raise UserError(f"{path} says nothing of its hyperparameters, so it cannot be told whose run it is")
        return content

    def _check_options(self) -> None:
        if self._get(self.config, "overwrite") and self._get(self.config, "resume") == "auto":
            raise UserError("--overwrite begins a run anew, --resume auto goes on with it; give one of the two")

    def _begin_anew(self) -> Path | None:
        """See that a fit that goes on from no checkpoint of its folder finds nobody else's there; where that is now."""
        checkpoint = self.config_init[str(self.subcommand)]["ckpt_path"]
        if checkpoint is not None and Path(checkpoint).resolve().is_relative_to(self.folder.resolve()):
            return None
        return begin_anew(self.folder, bool(self._get(self.config, "overwrite")), leads=self.trainer.is_global_zero)

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the verb; of several fits in one folder the second is refused."""
        if subcommand != "fit" or self._scratch is not None:
            self._run_interruptibly(subcommand)
            return
        with fitting(self.folder) if self.trainer.is_global_zero else nullcontext():
            moved = self._begin_anew()
            try:
                self._run_interruptibly(subcommand)
            except BaseException:
                if moved is not None:
                    put_back(self.folder, moved)
                raise

    def _run_interruptibly(self, subcommand: str) -> None:
        """Lightning turns Ctrl-C into `exit(1)` and goes deaf to the next, both are undone here."""
        handler = signal.getsignal(signal.SIGINT)
        try:
            super()._run_subcommand(subcommand)
        except SystemExit as leaving:
            if self.trainer.state.status == TrainerStatus.INTERRUPTED:
                raise KeyboardInterrupt from leaving
            raise
        except Exception as error:
            self.watch.ends(error)
            raise
        finally:
            self.watch.close()
            signal.signal(signal.SIGINT, handler)


def main(argv: list[str]) -> int:
    """Run `fit`, `validate`, `test` or `predict`, the first of `argv`."""
    from callbacks import SaveConfig  # here alone the roof reaches over to what the YAML files name

    quiet_lightning()
    try:
        TrainingCLI(argv, SaveConfig)
    except MisconfigurationException as mistake:  # what Lightning has to say of the trainer's options
        raise UserError(" ".join(str(mistake).split())) from mistake
    return 0


def quiet_lightning() -> None:
    """Leave out what Lightning says on every run, so that what a person sees is what matters."""
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    for said_every_time in (
        ".*does not have many workers.*",
        ".*is smaller than the logging interval.*",
        "The `srun` command is available on your system but is not used.*",
        ".*in eval mode at the start of training.*",  # what is frozen
        ".*sync_dist=True.*",  # what stages log of an epoch is the same on all ranks, who have gathered all outcomes
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
    ):
        warnings.filterwarnings("ignore", message=said_every_time)


def check_validates(trainer: L.Trainer) -> None:
    """Refuse a fit that would never be validated though it could be.

    Raises:
        UserError: names the option.
    """
    batches, interval = trainer.max_steps * trainer.accumulate_grad_batches, trainer.val_check_interval
    counts_all = trainer.check_val_every_n_epoch is None and isinstance(interval, int) and trainer.limit_val_batches
    if counts_all and batches > 0:
        check_validated(batches, interval)


def _configs(argv: list[str]) -> list[str]:
    """The config files that a command names."""
    behind = [value for option, value in pairwise(argv) if option in CONFIG_OPTIONS]
    return behind + [option.partition("=")[2] for option in argv if option.startswith("--config=")]


def _where_they_lie(argv: list[str]) -> list[str]:
    """The command, where the configs of runs that were moved mean the runs' folders of today."""
    command = list[str]()
    for before, argument in pairwise(["", *argv]):
        option, _, value = argument.partition("=")
        named = argument if before in CONFIG_OPTIONS else value if option in CONFIG_OPTIONS else None
        command += [argument, *(where_it_lies(Path(named)) if named else [])]
    return command
