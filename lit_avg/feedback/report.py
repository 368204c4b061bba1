"""`lit-avg feedback report`: what a store alone tells of the granularities, before any router is trained.

    lit-avg feedback report runs/jersey/feedback

Questions without an image are left out. The ideal router is the oracle of `lit_avg.routing.policies`: it knows the
answer and takes the coarsest granularity whose feedback is within ε nats of the best; ε from 0 upwards makes its curve.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lit_avg.feedback.part_files import StoredFeedback
from lit_avg.feedback.store import FeedbackStore
from lit_avg.routing.policies import OraclePolicy, PolicyInputs, choose_levels
from lit_avg.utils.atomic_io import whole_file, writable
from lit_avg.utils.command_line import VerbParser, number
from lit_avg.utils.errors import UserError
from lit_avg.visual_tokens.granularity import Granularities

mpl.use("Agg")  # before pyplot: there may be no screen

from matplotlib import pyplot as plt
from matplotlib.axes import Axes


def draw_report(
    shares: Mapping[str, Sequence[float]],
    fixed: Mapping[int, tuple[float, float]],
    curve: Sequence[tuple[float, float, float]],
    path: Path,
) -> None:
    """Write the figure.

    Args:
        shares: how often each of the levels is best, for each group of questions.
        fixed: tokens per tile to (share of the finest level's tokens, accuracy).
        curve: the ideal router's (ε, share of the finest level's tokens, accuracy).
        path: of the PNG.
    """
    with plt.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        height = 1.6 + 0.4 * max(6, len(shares))
        figure, (left, right) = plt.subplots(1, 2, figsize=(12, height), layout="constrained")
        _stack(left, shares, list(fixed))
        _trade(right, fixed, curve)
        with whole_file(path) as partial:
            figure.savefig(partial, dpi=140, format="png")
        plt.close(figure)


def _stack(axis: Axes, shares: Mapping[str, Sequence[float]], granularities: Sequence[int]) -> None:
    """A bar for each group, coarse to fine."""
    colours = mpl.colormaps["viridis"]
    names = list(shares)[::-1]
    lefts = [0.0] * len(names)
    for level, tokens in enumerate(granularities):
        widths = [100 * shares[name][level] for name in names]
        colour = colours(level / max(1, len(granularities) - 1))
        axis.barh(names, widths, left=lefts, color=colour, label=str(tokens))
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
    axis.set(xlim=(0, 100), ylim=(-0.6, max(1.6, len(names) - 0.4)))  # a single group is no wall
    axis.set_xlabel("questions for which a granularity has the best feedback (%)")
    axis.legend(title="tokens per tile", ncols=len(granularities), loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _trade(axis: Axes, fixed: Mapping[int, tuple[float, float]], curve: Sequence[tuple[float, float, float]]) -> None:
    """Accuracy against tokens."""
    axis.plot([x * 100 for x, _ in fixed.values()], [y for _, y in fixed.values()], "o-", color="0.5", label="fixed")
    for tokens, (x, y) in fixed.items():
        axis.annotate(str(tokens), (100 * x, y), (4, -12), textcoords="offset points", color="0.35")
    axis.plot([100 * x for _, x, _ in curve], [y for _, _, y in curve], "D-", color="#D55E00", label="ideal router")
    axis.annotate("ε = 0", (100 * curve[0][1], curve[0][2]), (6, 4), textcoords="offset points", color="#D55E00")
    axis.set_xlabel("visual tokens, of those of the finest granularity (%)")
    axis.set_ylabel("accuracy")
    axis.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)


EPSILON = 0.01
"""Nats per answer token within which two granularities are called a tie, unless told otherwise."""

MARGINS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""The ε of the ideal router's curve."""


def main(argv: list[str]) -> int:
    """Print the report and write `report-<split>.png` into the store.

    Raises:
        UserError: there is no complete and undamaged store.
    """
    parser = VerbParser(prog="lit-avg feedback report", description="What a store tells of the granularities.")
    parser.add_argument("store", type=Path, help="folder that `lit-avg feedback` wrote")
    parser.add_argument("--split", default="train", help="of the data (default: train)")
    parser.add_argument(
        "--epsilon", type=number(least=0), default=EPSILON, help=f"nats that make a tie (default: {EPSILON})"
    )
    arguments = parser.parse_args(argv)
    store = FeedbackStore(arguments.store)
    everything = store.read(arguments.split)
    stored = everything.rows(everything.visual_tokens[:, -1] > 0)
    if not len(stored):
        raise UserError(f"{arguments.store} has no question about an image in {arguments.split}")
    console = Console()
    console.print(f"{len(everything)} questions of {arguments.split}, {len(stored)} about an image", highlight=False)
    console.print(best_table(stored, store.granularities))
    _print_ties(console, stored, arguments.epsilon)
    curve = ideal_curve(stored, store.granularities, MARGINS)
    console.print(curve_table(curve))
    figure = writable(arguments.store) / f"report-{arguments.split}.png"
    draw_report(best_shares(stored, store.granularities), fixed_points(stored, store.granularities), curve, figure)
    console.print(f"wrote {figure}", highlight=False, soft_wrap=True)
    return 0


def best_level(stored: StoredFeedback) -> Tensor:
    """(Q,) the level with the best feedback, the coarsest of equals."""
    return stored.log_prob.argmax(dim=1)


def best_shares(stored: StoredFeedback, granularities: Sequence[int]) -> dict[str, list[float]]:
    """How often each level is best: of all questions, of each question kind, and of each source if they are named."""
    groups = {"all": torch.ones(len(stored), dtype=torch.bool)}
    for name, values in (("kind", stored.kinds), ("source", stored.sources)):
        if len(set(values)) > 1:
            groups |= {
                f"{name} {value or 'unnamed'}": torch.tensor([other == value for other in values])
                for value in sorted(set(values))
            }
    best = best_level(stored)
    counts = {name: best[members].bincount(minlength=len(granularities)).double() for name, members in groups.items()}
    return {name: (count / count.sum()).tolist() for name, count in counts.items()}


def best_table(stored: StoredFeedback, granularities: Sequence[int]) -> Table:
    """`best_shares` to be read."""
    table = Table(title="how often each granularity has the best feedback", box=box.SIMPLE)
    table.add_column("questions")
    for tokens in granularities:
        table.add_column(str(tokens), justify="right")
    for name, shares in best_shares(stored, granularities).items():
        table.add_row(name, *(f"{share:.1%}" for share in shares))
    return table


def ties(stored: StoredFeedback, epsilon: float) -> Tensor:
    """(Q,) how many levels are within `epsilon` nats of the best, itself included."""
    return (stored.log_prob >= stored.log_prob.amax(dim=1, keepdim=True) - epsilon).sum(dim=1)


def ideal_curve(
    stored: StoredFeedback, granularities: Sequence[int], margins: Sequence[float]
) -> list[tuple[float, float, float]]:
    """(ε, share of the finest level's tokens, accuracy) of the oracle for each margin."""
    inputs = PolicyInputs(stored.keys, Granularities.of_tokens(granularities), feedback=stored.log_prob)
    return [(margin, *_worth(stored, choose_levels(OraclePolicy(margin), inputs))) for margin in margins]


def fixed_points(stored: StoredFeedback, granularities: Sequence[int]) -> dict[int, tuple[float, float]]:
    """Tokens per tile to (share of the finest level's tokens, accuracy) of always taking that level."""
    levels = {tokens: torch.full((len(stored),), level) for level, tokens in enumerate(granularities)}
    return {tokens: _worth(stored, chosen) for tokens, chosen in levels.items()}


def curve_table(curve: Sequence[tuple[float, float, float]]) -> Table:
    """`ideal_curve` to be read; its first row is the oracle."""
    table = Table(title="ideal router: coarsest granularity within ε nats of the best", box=box.SIMPLE)
    for column in ("ε", "tokens of the finest", "accuracy"):
        table.add_column(column, justify="right")
    for margin, share, accuracy in curve:
        table.add_row(f"{margin:g}", f"{share:.1%}", f"{accuracy:.3f}")
    return table


def _print_ties(console: Console, stored: StoredFeedback, epsilon: float) -> None:
    tied = ties(stored, epsilon)
    share, mean = (tied > 1).double().mean().item(), tied.double().mean().item()
    console.print(
        f"ties within {epsilon:g} nats: {share:.1%} of the questions; {mean:.2f} granularities are as good as the best",
        highlight=False,
        soft_wrap=True,
    )


def _worth(stored: StoredFeedback, chosen: Tensor) -> tuple[float, float]:
    """Share of the finest level's tokens, and accuracy."""
    tokens = stored.visual_tokens.gather(1, chosen.unsqueeze(1)).double().sum()
    correct = stored.correct.gather(1, chosen.unsqueeze(1)).double().mean()
    return (tokens / stored.visual_tokens[:, -1].double().sum()).item(), correct.item()
