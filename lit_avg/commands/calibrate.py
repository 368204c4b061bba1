"""`lit-avg calibrate`: how much of a run's accuracy to give for fewer tokens, or how many tokens to spend.

    lit-avg calibrate --ckpt runs/jersey/stage4 --max-accuracy-loss 0.005
    lit-avg calibrate --ckpt runs/jersey/stage4 --budget 0.4

Fits the margin δ of the policy `coarsest within` on the validation split and stores it in the checkpoint, in place of
the one that training fitted for no loss at all. `lit-avg test` uses it from then on.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import cast

import torch
from lightning.pytorch import LightningDataModule
from rich import box
from rich.console import Console
from rich.table import Table

from lit_avg.batch import Batch
from lit_avg.commands.fit import quiet_lightning
from lit_avg.commands.offline import finished_run, take_over_trained
from lit_avg.evaluation.calibration import fit_delta, fit_delta_to_budget
from lit_avg.evaluation.metrics import policy_metrics
from lit_avg.evaluation.outcomes import Outcomes
from lit_avg.result_names import ACCURACY, COARSEST_WITHIN, TOKEN_SHARE, TOKENS_PER_TILE
from lit_avg.routing.policies import CoarsestWithinPolicy, FixedPolicy, Policy, RouterPolicy
from lit_avg.runs.consolidation import weights_path
from lit_avg.runs.recorded_hashes import note_calibrated
from lit_avg.stages.router_stage import RouterStage
from lit_avg.training.handover import read_checkpoint
from lit_avg.utils.atomic_io import whole_file
from lit_avg.utils.command_line import VerbParser, number
from lit_avg.utils.errors import UserError
from lit_avg.utils.hashing import file_sha256

DELTA = "delta"
"""The buffer of `RouterStage`, and so the entry of a checkpoint's state dict."""

CALIBRATED = COARSEST_WITHIN
"""The policy that chooses by it."""


def main(argv: list[str]) -> int:
    """Fit, store and print.

    Raises:
        UserError: there is no finished run with a router, no validation data, or no margin keeps to the budget.
    """
    parser = VerbParser(prog="lit-avg calibrate", description="Fit the margin of `coarsest within` of a run.")
    parser.add_argument("--ckpt", required=True, help="run directory of stage 4, or a checkpoint in one")
    aim = parser.add_mutually_exclusive_group(required=True)
    aim.add_argument(
        "--max-accuracy-loss", type=number(least=0, below=1), help="against the finest granularity, for example 0.005"
    )
    aim.add_argument(
        "--budget", type=number(above=0, most=1), help="visual tokens as a share of the finest granularity's: 0.4"
    )
    arguments = parser.parse_args(argv)
    quiet_lightning()
    cli, _ = finished_run(arguments.ckpt)
    stage = cli.stage
    if not isinstance(stage, RouterStage):
        raise UserError(f"--ckpt: {type(stage).__name__} trains no router, so there is no margin to fit")
    take_over_trained(stage, cli.trainer, arguments.ckpt)
    cli.datamodule.prepare_data()
    outcomes = validation_outcomes(stage, cli.datamodule)
    if arguments.budget is None:
        delta = fit_delta(outcomes, cast(float, arguments.max_accuracy_loss))
    else:
        delta = fit_delta_to_budget(outcomes, cast(float, arguments.budget))
    forgotten = store_delta(weights_path(arguments.ckpt), delta)
    Console().print(trade_table(stage, outcomes, delta))
    print(f"δ = {delta:.4f} nats, fitted on {len(outcomes)} validation questions, stored with the checkpoint")
    if forgotten:
        print(f"the run's test of `{CALIBRATED}` was of another margin, so it no longer counts: test again")
    return 0


@torch.no_grad()
def validation_outcomes(stage: RouterStage, data: LightningDataModule) -> Outcomes:
    """Every validation question at every granularity.

    Raises:
        UserError: there is none, or its outcomes are no numbers.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stage.to(device)
    batches = cast(Iterable[Batch], data.val_dataloader())
    found = [stage.evaluate(data.on_after_batch_transfer(batch.to(device), 0)) for batch in batches]
    if not found:
        raise UserError(
            "this run has no validation data to fit a margin on; give its data module a `val` or `val_share`"
        )
    outcomes = Outcomes.merge(found).sorted()
    outcomes.check_finite()
    return outcomes


def store_delta(path: Path, delta: float) -> bool:
    """Put a margin into a checkpoint, all at once; the rest of it stays as it was. Its run records the new hash.

    Returns:
        Whether a test was of another margin and is forgotten.
    """
    checkpoint = read_checkpoint(path)
    if float(checkpoint["state_dict"][DELTA]) == delta:
        return False
    checkpoint["state_dict"][DELTA] = torch.tensor(delta, dtype=torch.double)
    with whole_file(path) as partial:
        torch.save(checkpoint, partial)
        return note_calibrated(path, file_sha256(partial), CALIBRATED)


def trade_table(stage: RouterStage, outcomes: Outcomes, delta: float) -> Table:
    """What the margin gives, beside the router's own choice and the finest level."""
    finest, routed = FixedPolicy(stage.granularities.finest), RouterPolicy()
    policies: dict[str, Policy] = {
        finest.name: finest,
        routed.name: routed,
        f"{CALIBRATED} {delta:.4f}": CoarsestWithinPolicy(delta),
    }
    table = Table(box=box.SIMPLE)
    for column in ("policy", "accuracy", "tokens per tile", "of the finest"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for name, policy in policies.items():
        metrics = policy_metrics(outcomes, outcomes.chosen_by(policy))
        shares = (
            [f"{metrics[TOKENS_PER_TILE.name]:.1f}", f"{metrics[TOKEN_SHARE.name]:.1%}"]
            if bool((outcomes.tiles > 0).any())
            else []
        )
        table.add_row(name, f"{metrics[ACCURACY.name]:.3f}", *shares)
    return table
