"""The distributions of a data set, as one image."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from datamodules.checking.measure import MeasureSettings
from datamodules.checking.statistics import ASPECT_STEPS, Statistics, Tally
from lit_avg.utils.atomic_io import whole_file

_BINS = 40


def draw_distributions(statistics: Statistics, settings: MeasureSettings, path: Path) -> None:
    """Write six panels as a PNG.

    Args:
        statistics: of all splits together.
        settings: what they were measured with.
        path: of the image.
    """
    figure = Figure(figsize=(13, 7), layout="constrained")
    figure.suptitle(f"{statistics.samples:,} samples, {statistics.text_only:,} of them text-only")
    panels: list[Axes] = figure.subplots(2, 3).flatten().tolist()
    _aspects(panels[0], statistics)
    _grids(panels[1], statistics)
    _visual_tokens(panels[2], statistics, settings)
    _histogram(panels[3], statistics.rounds, "rounds of a sample", "samples")
    _histogram(panels[4], statistics.answers, f"{settings.unit} of an answer", "answers")
    _histogram(panels[5], statistics.lengths, f"{settings.unit} of a conversation, the image as one", "samples")
    if settings.tokenizer is not None:
        panels[5].axvline(settings.max_length, color="C3", linestyle="--")
        panels[5].set_title(f"{statistics.too_long:,} are longer than {settings.max_length}", fontsize=10)
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=110, format=path.suffix[1:] or "png")


def _aspects(panel: Axes, statistics: Statistics) -> None:
    octaves = {steps / ASPECT_STEPS: count for steps, count in statistics.aspects.counts.items()}
    panel.hist(list(octaves), bins=_BINS, weights=list(octaves.values()))
    low, high = int(np.floor(min(octaves, default=-1))), int(np.ceil(max(octaves, default=1)))
    ticks = range(low, high + 1)
    panel.set_xticks(ticks, [f"{2**tick}:1" if tick >= 0 else f"1:{2**-tick}" for tick in ticks], fontsize=8)
    panel.set(xlabel="width : height", ylabel="images")


def _grids(panel: Axes, statistics: Statistics) -> None:
    grids = sorted(statistics.grids.items(), key=lambda grid: (grid[0][0] * grid[0][1], grid[0]))
    panel.bar([f"{rows}x{columns}" for (rows, columns), _ in grids], [count for _, count in grids])
    panel.set(xlabel="tiles (rows x columns) beside the global view", ylabel="images")


def _visual_tokens(panel: Axes, statistics: Statistics, settings: MeasureSettings) -> None:
    """Median, and a line from the 5th to the 95th of a hundred."""
    places = range(len(statistics.visual))
    medians = np.array([tally.quantile(0.5) for tally in statistics.visual])
    low, high = (np.array([tally.quantile(share) for tally in statistics.visual]) for share in (0.05, 0.95))
    panel.set_title("median, and 5 to 95 %", fontsize=10)
    panel.bar(places, medians, yerr=[medians - low, high - medians], capsize=4)
    panel.set_xticks(places, [str(level) for level in settings.granularities])
    panel.set(xlabel="granularity (tokens a tile)", ylabel="visual tokens of an image")


def _histogram(panel: Axes, tally: Tally, values: str, counted: str) -> None:
    most = max(tally.counts, default=1)
    bins = np.arange(0.5, most + 1.5) if most <= _BINS else np.linspace(0, most + 1, _BINS + 1)
    panel.hist(list(tally.counts), bins=bins.tolist(), weights=list(tally.counts.values()))
    panel.set(xlabel=values, ylabel=counted)
