"""`lit-avg describe`: what a run would train, before it costs anything.

    lit-avg describe --config experiments/jersey/stage3.yaml

It takes fit's options. The model is built on torch's meta device, without memory or weights, so that a recipe of 7B
parameters is described in seconds.
"""

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from lit_avg.anyres import VisualLayout
from lit_avg.errors import UserError
from lit_avg.stages.base import PARTS, Stage
from lit_avg.training_cli import TrainingCLI, hush

PLANE = (2, 2)
"""Rows and columns of tiles in the example that the tokens of a whole image are told for."""


class DescribingCLI(TrainingCLI):
    """Parses and builds as fit does, and leaves it at that."""

    def after_instantiate_classes(self) -> None:
        """Look for no checkpoint: what a run trains does not depend on how far it is."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""


def main(argv: list[str]) -> int:
    """Describe the stage that `lit-avg fit` would run with the same options.

    Raises:
        UserError: the config is wrong, or runs something else than a stage with an `AvgLlava`.
    """
    hush()
    stage = DescribingCLI(["fit", *argv]).model
    if not isinstance(stage, Stage):
        raise UserError(f"{type(stage).__name__} trains no AvgLlava; describe knows the stages of lit_avg.stages")
    with torch.device("meta"):
        stage.model = stage.make_model()
    stage.freeze_the_rest()
    describe(stage, Console())
    return 0


def describe(stage: Stage, console: Console) -> None:
    """Print what a stage trains, how fast, for which loss, and what its granularities cost."""
    settings = stage.optimization
    trained = ", ".join(part.replace("_", " ") for part in stage.trained_parts)
    console.print(f"[bold]{type(stage).__name__}[/bold] trains: {trained}")
    console.print(f"loss: {stage.objective}", highlight=False, soft_wrap=True)
    console.print(
        f"starts from: {stage.init_from or 'the weights the backbone is built with'}", highlight=False, soft_wrap=True
    )
    console.print(
        f"AdamW, betas {settings.betas}, weight decay {settings.weight_decay}; "
        f"warm-up over {settings.warmup_ratio:.0%} of the steps, then cosine to {settings.final_lr_ratio:.0%}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(parts_table(stage))
    console.print(granularities_table(stage.model.layout))


def parts_table(stage: Stage) -> Table:
    """Parameters and learning rate of each part of the model."""
    rates = {group.name: group.lr for group in stage.parameter_groups()}
    counts = {part: sum(p.numel() for p in stage.parameters_of(part)) for part in PARTS}
    total = sum(counts.values())
    table = _table("part", "parameters", "share", "lr")
    for part, count in counts.items():
        rate = f"{rates[part]:.1e}" if part in rates else "frozen"
        table.add_row(part.replace("_", " "), f"{count:,}", f"{count / total:.2%}", rate)
    trained = sum(counts[part] for part in stage.trained_parts)
    table.add_section()
    table.add_row("all", f"{total:,}", "100.00%", f"{trained:,} trained")
    return table


def granularities_table(layout: VisualLayout) -> Table:
    """Grid and tokens of each level, for a tile and for a square image of `PLANE` tiles and its global view."""
    rows, columns = PLANE
    table = _table("granularity", "grid of a tile", f"tokens of {rows}x{columns} tiles and the global view")
    granularities = layout.granularities
    for level, (tokens, grid) in enumerate(zip(granularities.tokens, granularities.grids, strict=True)):
        table.add_row(str(tokens), f"{grid[0]}x{grid[1]}", f"{layout.count(PLANE, PLANE, level):,}")
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table
