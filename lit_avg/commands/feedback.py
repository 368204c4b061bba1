"""`lit-avg feedback`: what the LMM thinks of each granularity, computed once for every router that is trained on it.

    lit-avg feedback --config experiments/jersey/stage4.yaml --ckpt runs/jersey/stage3 --out runs/jersey/feedback
    lit-avg feedback report runs/jersey/feedback

The same command, given again or on another machine that sees the folder, goes on with what is missing. It computes on
as many devices as the config's trainer, or `--devices`, says: a process each, which share the work by the parts' locks.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from lit_avg.commands.fit import quiet_lightning
from lit_avg.commands.offline import BuildingCLI
from lit_avg.data import SPLITS, ShardsData, Split, no_samples
from lit_avg.feedback.compute import compute_feedback, shards_of
from lit_avg.feedback.devices import Place, feedback_devices
from lit_avg.feedback.fingerprint import identity_of
from lit_avg.feedback.store import StoredSplit, open_store
from lit_avg.stages.base import Stage
from lit_avg.stages.rglf import RGLF
from lit_avg.utils.command_line import VerbParser, whole_number
from lit_avg.utils.errors import UserError
from lit_avg.utils.process_pool import at_once


def main(argv: list[str]) -> int:
    """Write a store, or report on one.

    Raises:
        UserError: config and checkpoint do not fit, or the store is of another origin.
    """
    if argv[:1] == ["report"]:
        from lit_avg.feedback.report import main as report  # it draws, and a writer need not load what draws

        return report(argv[1:])
    parser = VerbParser(prog="lit-avg feedback", description="Compute feedback once; other options are fit's.")
    parser.add_argument("--config", required=True, action="append", help="of stage 4; more of them overlay it")
    parser.add_argument("--ckpt", help="run directory of stage 3, or a checkpoint in one (default: the config's)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the store")
    parser.add_argument("--devices", help="how many to compute on, or all (default: the config's trainer.devices)")
    parser.add_argument("--splits", nargs="+", help="of the data (default: train, and val if there is one)")
    parser.add_argument(
        "--samples-per-part", type=whole_number(least=1), default=256, help="the unit of work that a kill can cost"
    )
    arguments, others = parser.parse_known_args(argv)
    quiet_lightning()
    configs = [text for config in arguments.config for text in ("--config", config)]
    source = [] if arguments.ckpt is None else ["--model.init_args.init_from", arguments.ckpt]
    filling = StoreFilling(
        ("fit", *configs, *others, *source),
        arguments.out,
        arguments.splits,
        arguments.samples_per_part,
    )
    write_store(filling, arguments.devices)
    return 0


@dataclass(frozen=True)
class FilledSplit:
    """What a process has made of a split."""

    made: int  # parts
    parts: int  # that the split has
    questions: int
    seconds: float


@dataclass(frozen=True)
class StoreFilling:
    """Makes what is missing of a store, in whichever process, together with others.

    Args:
        fit: how `lit-avg fit` would be called to train on this feedback live.
        out: the store.
        splits: of the data; None for training and validation.
        samples_per_part: of splits that are new to the store.
        threads: CPU threads to compute with, which decide a sum's last bits; None for torch's own number.
    """

    fit: tuple[str, ...]
    out: Path
    splits: Sequence[str] | None
    samples_per_part: int
    threads: int | None = None

    def __call__(self, place: Place) -> dict[str, FilledSplit]:
        """By itself, on one device."""
        quiet_lightning()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        return self.fill(BuildingCLI(list(self.fit)), place)

    def fill(self, cli: BuildingCLI, place: Place) -> dict[str, FilledSplit]:
        """What `cli` describes, on one device.

        Raises:
            UserError: the config runs another stage or starts from none, there is no such split, or the store is of
                another origin.
        """
        stage, data = _router_stage(cli.stage), shards_of(cli.datamodule)
        precision = cli.config["fit"]["trainer"]["precision"] or "32-true"
        # each process by itself, also where a cluster starts several
        fabric = Fabric(
            accelerator=place.accelerator,
            devices=place.devices,
            precision=precision,
            plugins=[LightningEnvironment()],
        )
        with fabric.init_module():
            stage.trainer = cli.trainer
            stage.configure_model()
        model = stage.model.eval().to(fabric.device)
        data.prepare_data()
        identity = identity_of(model, stage.base_weights(), data, _full_name(precision), stage.per_sample)
        wanted = _wanted(data, self.splits or ())
        store = open_store(self.out, identity, {split: _split(data, split, self.samples_per_part) for split in wanted})
        filled = dict[str, FilledSplit]()
        for split in wanted:
            begun, questions = time.perf_counter(), list[int]()
            compute = compute_feedback(model, data, split, fabric.device, stage.per_sample, questions.append)
            with fabric.autocast(), torch.no_grad():
                made = store.fill(split, compute)
            parts, seconds = len(store.splits[split].parts), time.perf_counter() - begun
            filled[split] = FilledSplit(made, parts, sum(questions), seconds)
        return filled


def write_store(filling: StoreFilling, devices: str | None) -> None:
    """Make what is missing of a store on all devices that it is given.

    Args:
        filling: what is made.
        devices: how many, or `all`; None for those of the config's trainer.

    Raises:
        UserError: as `StoreFilling.fill`; there are fewer devices, or a process was killed.
    """
    cli = BuildingCLI(list(filling.fit))
    places = feedback_devices(cli.config["fit"]["trainer"], devices)
    if len(places) == 1:
        filled = [filling.fill(cli, places[0])]
    else:
        _router_stage(cli.stage)
        shards_of(cli.datamodule).prepare_data()  # so that the processes find it done
        filled = at_once(replace(filling, threads=torch.get_num_threads()), places)
    for split in filled[0]:
        shares = [each[split] for each in filled]
        made, questions = sum(share.made for share in shares), sum(share.questions for share in shares)
        by = f", {questions} questions in {max(share.seconds for share in shares):.0f} s"
        by += f" by {len(shares)} processes" if len(shares) > 1 else ""
        print(f"{split}: {made} of {shares[0].parts} parts made here{by}; all are there")


def _router_stage(stage: Stage) -> RGLF:
    if not isinstance(stage, RGLF):
        raise UserError(
            f"--config: {type(stage).__name__} does not learn from feedback; name a config of stage 4, RGLF"
        )
    if stage.init_from is None and stage.pretrained is None:
        raise UserError(
            "--ckpt: name the run of stage 3 whose feedback is wanted; the config has no `init_from` either, and its "
            "backbone is not `pretrained`"
        )
    return stage


def _wanted(data: ShardsData, named: Sequence[str]) -> list[Split]:
    by_name: dict[str, Split] = {split: split for split in SPLITS}
    if unknown := [name for name in named if name not in by_name]:
        raise UserError(f"--splits: there is no {unknown[0]} split in this data; leave it out")
    if named:
        return [by_name[name] for name in named]
    of_training: tuple[Split, ...] = ("train", "val")
    there: list[Split] = [split for split in of_training if data.data_digest(split) is not None]
    if not there:
        raise no_samples(data)
    return there


def _split(data: ShardsData, split: Split, samples_per_part: int) -> StoredSplit:
    if (digest := data.data_digest(split)) is None:
        raise UserError(f"--splits: there is no {split} split in this data; leave it out")
    if samples_per_part < 1:
        raise UserError(f"--samples-per-part must be at least 1, but is {samples_per_part}")
    return StoredSplit(digest, data.sample_count(split), samples_per_part)


def _full_name(precision: object) -> str:
    """As a trainer calls it: 32 is 32-true."""
    return f"{precision}-true" if str(precision).isdigit() else str(precision)
