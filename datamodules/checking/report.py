"""What a check has found, as tables."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from datamodules.checking.measure import MeasureSettings
from datamodules.checking.statistics import Statistics, Tally, aspect

_QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
_QUANTILE_NAMES = ("least", "5 %", "median", "95 %", "most")


def print_report(console: Console, splits: dict[str, Statistics], settings: MeasureSettings) -> None:
    """Print the tables of each split.

    Args:
        console: where.
        splits: what was counted, by the folder's name.
        settings: what it was measured with.
    """
    console.print(_samples_table(splits, settings))
    for name, statistics in splits.items():
        title = f"distributions of {name}" if len(splits) > 1 else "distributions"
        console.print(_distributions_table(title, statistics, settings))
        if statistics.images:
            console.print(_grids_table(statistics))
    if settings.tokenizer is None:
        console.print("lengths in tokens, and the share beyond the maximum length, need --config or --tokenizer")


def _samples_table(splits: dict[str, Statistics], settings: MeasureSettings) -> Table:
    table = _table("samples", *splits)
    rows = {
        "samples": [f"{one.samples:,}" for one in splits.values()],
        "turns": [f"{2 * _sum(one.rounds):,}" for one in splits.values()],
        "text-only": [_share(one.text_only, one.samples) for one in splits.values()],
    }
    if settings.tokenizer is not None:
        longest = settings.max_length
        rows[f"longer than {longest} tokens"] = [_share(one.too_long, one.samples) for one in splits.values()]
        rows["first answer beyond them"] = [_share(one.no_room, one.samples) for one in splits.values()]
    for name, values in rows.items():
        table.add_row(name, *values)
    return table


def _distributions_table(title: str, statistics: Statistics, settings: MeasureSettings) -> Table:
    table = _table(title, "mean", *_QUANTILE_NAMES)
    _add(table, "rounds of a sample", statistics.rounds)
    _add(table, f"{settings.unit} of an answer", statistics.answers)
    _add(table, f"{settings.unit} of a conversation", statistics.lengths)
    if statistics.images:
        ratios = [f"{aspect(statistics.aspects.quantile(share)):.2f}" for share in _QUANTILES]
        table.add_row("width / height", "", *ratios)
        tiles = Tally()
        for (rows, columns), count in statistics.grids.items():
            tiles.counts[rows * columns + 1] += count
        _add(table, "tiles of an image", tiles)
        for level, tally in zip(settings.granularities, statistics.visual, strict=True):
            _add(table, f"visual tokens at {level} a tile", tally)
    return table


def _grids_table(statistics: Statistics) -> Table:
    table = _table("tiles, with the global view", "images")
    for (rows, columns), count in statistics.grids.most_common():
        table.add_row(f"{rows}x{columns} + 1", _share(count, statistics.images))
    return table


def _add(table: Table, name: str, tally: Tally) -> None:
    table.add_row(name, f"{tally.mean:.1f}", *[f"{tally.quantile(share):,}" for share in _QUANTILES])


def _sum(tally: Tally) -> int:
    return sum(value * count for value, count in tally.counts.items())


def _share(count: int, total: int) -> str:
    return f"{count:,} ({count / max(total, 1):.2%})"


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def problems_told(problems: Sequence[str], limit: int = 20) -> str:
    """The first problems, a line each."""
    more = [f"… and {len(problems) - limit} more"] if len(problems) > limit else []
    return "\n".join([*problems[:limit], *more])
