"""`lit-avg describe`: what a run would train, before it costs anything.

    lit-avg describe --config experiments/jersey/stage3.yaml

It takes fit's options. The model is built on torch's meta device, without memory or weights, so that a recipe of 7B
parameters is described in seconds.
"""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from lit_avg.commands.fit import quiet_lightning
from lit_avg.commands.offline import BuildingCLI, outline_model
from lit_avg.stages.base import Stage
from lit_avg.stages.trained_parts import PARTS
from lit_avg.visual_tokens.anyres import VisualLayout

PLANE = (2, 2)
"""Rows and columns of tiles in the example that the tokens of a whole image are told for."""


def main(argv: list[str]) -> int:
    """Describe the stage that `lit-avg fit` would run with the same options.

    Raises:
        UserError: the config is wrong, or runs something else than a stage with an `AvgLlava`.
    """
    quiet_lightning()
    cli = BuildingCLI(["fit", *argv])
    stage = cli.stage
    outline_model(stage)
    stage.freeze_the_rest()
    console = Console()
    describe(stage, console)
    fit = cli.config["fit"]
    say(console, step_size(fit["trainer"], fit["data"]["init_args"].get("batch_size")))
    return 0


def describe(stage: Stage, console: Console) -> None:
    """Print what a stage trains, how fast, for which loss, and what its granularities cost."""
    settings = stage.optimization
    trained = ", ".join(part.replace("_", " ") for part in stage.trained_parts)
    console.print(f"[bold]{type(stage).__name__}[/bold] trains: {trained}")
    say(console, f"loss: {stage.loss_in_words}")
    say(console, f"starts from: {stage.start_in_words}")
    say(
        console,
        f"AdamW, betas {settings.betas}, weight decay {settings.weight_decay}; "
        f"warm-up over {settings.warmup_ratio:.0%} of the steps, then cosine to {settings.final_lr_ratio:.0%}",
    )
    if (lora := stage.model.backbone.lora) is not None:
        say(console, f"the LLM is frozen and has an adapter: {lora}")
    console.print(parts_table(stage))
    console.print(granularities_table(stage.model.layout))


def parts_table(stage: Stage) -> Table:
    """Parameters and learning rate of each part; shares are of LLaVA-NeXT, to which router and adapter come on top."""
    rates = {group.name: group.lr for group in stage.parameter_groups()}
    counts = {part: sum(p.numel() for p in stage.parameters_of(part)) for part in PARTS}
    total = sum(counts.values())
    llava_next = total - counts["router"] - counts["llm_adapter"]
    table = numbers_table("part", "parameters", "of LLaVA-NeXT", "lr")
    for part, count in counts.items():
        if part == "llm_adapter" and not count:
            continue
        rate = f"{rates[part]:.1e}" if part in rates else "frozen"
        table.add_row(part.replace("_", " "), f"{count:,}", f"{count / llava_next:.2%}", rate)
    trained = sum(counts[part] for part in stage.trained_parts)
    table.add_section()
    table.add_row("all", f"{total:,}", f"{total / llava_next:.2%}", f"{trained:,} trained")
    return table


def granularities_table(layout: VisualLayout) -> Table:
    """Grid and tokens of each level, for a tile and for a square image of `PLANE` tiles and its global view."""
    rows, columns = PLANE
    table = numbers_table("granularity", "grid of a tile", f"tokens of {rows}x{columns} tiles and the global view")
    granularities = layout.granularities
    for level, (tokens, grid) in enumerate(zip(granularities.tokens, granularities.grids, strict=True)):
        table.add_row(str(tokens), f"{grid[0]}x{grid[1]}", f"{layout.count(PLANE, PLANE, level):,}")
    return table


def step_size(trainer: Mapping[str, Any], batch_size: int | None) -> str:
    """How many samples a step of the optimiser sees, and on what it is computed."""
    nodes, devices, accumulated = trainer["num_nodes"], trainer["devices"], trainer["accumulate_grad_batches"]
    how = f"precision {trainer['precision'] or '32-true'}, strategy {strategy_in_words(trainer['strategy'])}"
    if batch_size is None or not str(devices).isdigit():
        return f"a step sees {batch_size or 'a batch of'} samples per device, {accumulated} times accumulated; {how}"
    samples = batch_size * nodes * int(devices) * accumulated
    factors = f"{batch_size} per device x {nodes * int(devices)} devices x {accumulated} accumulated"
    return f"a step sees {samples} samples ({factors}); {how}"


def strategy_in_words(strategy: Any) -> str:
    """Lightning's name for a strategy, or its class and, of ZeRO, the stage."""
    if isinstance(strategy, str):
        return strategy
    name, arguments = str(strategy.class_path).rpartition(".")[2], vars(strategy.init_args)
    return f"{name}, stage {arguments['stage']}" if "stage" in arguments else name


def say(console: Console, line: str) -> None:
    """One line, unbroken and in one colour."""
    console.print(line, highlight=False, soft_wrap=True)


def numbers_table(first: str, *others: str) -> Table:
    """An empty table: names in the first column, and numbers, which end under one another, in the others."""
    table = Table(box=box.SIMPLE)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table
