"""`GranularityHistogram`: which granularity the router chooses, overall and for each kind of question."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from torch import Tensor

from callbacks.run_context import logged_step, run_folder, stage_and_outcomes, tensorboard
from callbacks.watcher import DrawingWatcher
from lit_avg.evaluation.outcomes import Outcomes
from lit_avg.stages.base import Stage
from lit_avg.utils.atomic_io import write_whole
from lit_avg.visual_tokens.granularity import Granularities

FILE = "selection.csv"
OVERALL = "all"


@dataclass(frozen=True)
class Selection:
    """How the questions of one kind are spread over the N granularities."""

    kind: str
    questions: int
    shares: list[float]  # N, coarse to fine


class GranularityHistogram(DrawingWatcher):
    """After each evaluation: a histogram and a bar image in TensorBoard, and rows in `selection.csv`.

    Questions without an image have nothing to choose and are left out, as are stages without a router.
    """

    drawn = "histograms of the granularities chosen"

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tell what the router chose in validation."""
        self._tell(trainer, pl_module, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tell what the router chose in the test."""
        self._tell(trainer, pl_module, "test")

    def _tell(self, trainer: L.Trainer, module: L.LightningModule, split: str) -> None:
        found = stage_and_outcomes(trainer, module)
        if found is None or found[1].scores is None:
            return
        chosen, kinds = _choices(*found)
        if not kinds:
            return
        granularities, step = found[0].granularities, trainer.global_step
        selections = selections_by_kind(chosen, kinds, len(granularities))
        append_rows(run_folder(trainer) / FILE, split, step, granularities, selections)
        if writer := tensorboard(trainer):
            logged = logged_step(trainer)
            writer.add_histogram(f"router/level/{split}", chosen, logged, bins="auto")
            writer.add_figure(f"router/selection/{split}", selection_figure(granularities, selections), logged)


def selections_by_kind(chosen: Tensor, kinds: list[str], levels: int) -> list[Selection]:
    """Count the chosen levels (Q,) of all questions together, then kind by kind in alphabetical order."""
    named = [] if set(kinds) == {OVERALL} else sorted(set(kinds))
    members = {kind: torch.tensor([other == kind for other in kinds]) for kind in named}
    groups = {OVERALL: chosen, **{kind: chosen[rows] for kind, rows in members.items()}}
    return [
        Selection(kind, len(group), (group.bincount(minlength=levels).double() / len(group)).tolist())
        for kind, group in groups.items()
    ]


def append_rows(path: Path, split: str, step: int, granularities: Granularities, selections: list[Selection]) -> None:
    """Add one evaluation to the CSV, in place of what an interrupted run wrote of it or of what came after."""
    kept: list[list[str]] = []
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            kept = [row for row in list(csv.reader(file))[1:] if row[0] != split or int(row[1]) < step]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["split", "step", "kind", "questions", *granularities.tokens])
    writer.writerows(kept)
    for selection in selections:
        writer.writerow([split, step, selection.kind, selection.questions, *selection.shares])
    write_whole(path, text.getvalue())


def selection_figure(granularities: Granularities, selections: list[Selection]) -> Figure:
    """One bar a kind, divided by the granularity chosen; the darker, the finer."""
    figure = Figure(figsize=(7, 1.4 + 0.4 * len(selections)), layout="constrained")
    axes = figure.subplots()
    colours = mpl.colormaps["cividis_r"](torch.linspace(0.05, 0.95, len(granularities)).numpy())
    names = [f"{selection.kind} ({selection.questions})" for selection in selections]
    begins = [0.0] * len(selections)
    for level, tokens in enumerate(granularities.tokens):
        shares = [100 * selection.shares[level] for selection in selections]
        bars = axes.barh(names, shares, left=begins, color=colours[level], label=str(tokens), edgecolor="white")
        labels = [f"{share:.0f}" if share >= 5 else "" for share in shares]
        axes.bar_label(bars, labels, label_type="center", color="white" if level > 2 else "black", fontsize=8)
        begins = [begin + share for begin, share in zip(begins, shares, strict=True)]
    axes.set(xlim=(0, 100), xlabel="share of questions (%)")
    axes.invert_yaxis()
    figure.legend(title="tokens per tile", loc="outside upper center", ncols=len(granularities), frameon=False)
    return figure


def _choices(stage: Stage, outcomes: Outcomes) -> tuple[Tensor, list[str]]:
    """The router's level for each question with an image, and its kind."""
    pictured = (outcomes.tiles > 0).nonzero().squeeze(1)
    outcomes = outcomes.rows(pictured)
    return outcomes.chosen_by(stage.own_policy), outcomes.kinds
