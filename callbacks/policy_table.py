"""`PolicyTable`: what a person wants to see after a test."""

import lightning as L
from rich import box
from rich.console import Console
from rich.table import Table

from callbacks.run_context import stage_and_outcomes
from callbacks.watcher import Watcher
from lit_avg.evaluation.metrics import policy_metrics


class PolicyTable(Watcher):
    """Prints accuracy and tokens of every policy when a test ends."""

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the table."""
        found = stage_and_outcomes(trainer, pl_module)
        if found is None:
            return
        stage, outcomes = found
        table = Table(title=f"{type(stage).__name__}, {len(outcomes)} test questions", box=box.SIMPLE)
        table.add_column("policy", no_wrap=True)
        for column in ("accuracy", "tokens per tile", "in all", "of the finest"):
            table.add_column(column, justify="right")
        for name, policy in stage.policies.items():
            metrics = policy_metrics(outcomes, outcomes.chosen_by(policy))
            cells = [f"{metrics['accuracy']:.3f}"]
            if "token_share" in metrics:
                cells += [f"{metrics[key]:.1f}" for key in ("tokens_per_tile", "visual_tokens")]
                cells.append(f"{metrics['token_share']:.0%}")
            table.add_row(name, *cells)
        Console().print(table)
