"""`PolicyTable`: what a person wants to see after a test."""

from collections.abc import Mapping

import lightning as L
from rich import box
from rich.console import Console
from rich.table import Table

from callbacks.run_context import stage_and_outcomes
from callbacks.watcher import Watcher
from lit_avg.evaluation.metrics import policy_metrics
from lit_avg.result_names import ACCURACY, METRICS, TOKEN_SHARE, TOKENS_PER_TILE, VISUAL_TOKENS

COLUMNS = {ACCURACY.name: ".3f", TOKENS_PER_TILE.name: ".1f", VISUAL_TOKENS.name: ".1f", TOKEN_SHARE.name: ".0%"}
"""What is shown of every test, and how."""


class PolicyTable(Watcher):
    """Prints accuracy and tokens of every policy when a test ends, and what a config measures besides."""

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the table."""
        found = stage_and_outcomes(trainer, pl_module)
        if found is None:
            return
        stage, outcomes = found
        table = Table(title=f"{type(stage).__name__}, {len(outcomes)} test questions", box=box.SIMPLE)
        table.add_column("policy", no_wrap=True)
        others = [metric.meaning.name for metric in stage.metrics if metric.meaning.name not in METRICS]
        for column in ("accuracy", "tokens per tile", "in all", "of the finest", *others):
            table.add_column(column, justify="right")
        for name, policy in stage.policies.items():
            metrics = policy_metrics(outcomes, outcomes.chosen_by(policy), stage.metrics)
            table.add_row(
                name,
                *(_cell(metrics, known, form) for known, form in COLUMNS.items()),
                *(_cell(metrics, other, ".3f") for other in others),
            )
        Console().print(table)


def _cell(metrics: Mapping[str, float], name: str, form: str) -> str:
    """A metric as people read it; nothing where the questions tell nothing of it."""
    return f"{metrics[name]:{form}}" if name in metrics else ""
