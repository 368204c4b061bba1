"""A study's table as text, Markdown and CSV.

People read shares in percent with the standard deviation behind; the CSV holds the plain numbers.
"""

import csv
import io
import os
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from lit_avg.studies.results import Sample, Table, TableRow

NOT_FINISHED = "not finished"
MISSING = "–"

_COUNTED = ("tokens_per_tile", "visual_tokens")
"""Metrics that are numbers of tokens; all others are shares."""


def print_table(table: Table) -> None:
    """Show the table: fitted to a terminal, a line per row however long when piped."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=1000)
    shown = RichTable(box=box.SIMPLE_HEAD)
    for number, head in enumerate(_head(table)):
        name = head.replace("/", "\n").replace(" − ", " −\n") if console.is_terminal else head
        shown.add_column(Text(name), justify="left" if number == 0 else "right", overflow="fold")
    for row in table.rows:
        style = "bold" if row.name == table.study.reference else "" if row.finished else "dim"
        shown.add_row(*map(Text, _cells(table, row)), style=style)
    console.print(shown)
    console.print(f"  {table.provenance}\n", markup=False, highlight=False, soft_wrap=True)


def as_markdown(table: Table) -> str:
    """The table in Markdown, where its numbers come from beneath it."""
    head = _head(table)
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *(_cells(table, row) for row in table.rows)]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", table.provenance, ""])


def as_csv(table: Table) -> str:
    """`row`, `n`, then each metric's mean and, as `<metric>:sd`, its standard deviation; empty where there is none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "n", *(name for column in table.study.columns for name in (column, f"{column}:sd"))])
    for row in table.rows:
        samples = [row.samples[column] for column in table.study.columns]
        writer.writerow([row.name, row.finished, *(value for sample in samples for value in (sample.mean, sample.sd))])
    return text.getvalue()


def write_tables(table: Table) -> None:
    """Write `table.md` and `table.csv` into the study's folder."""
    table.study.out.mkdir(parents=True, exist_ok=True)
    for name, text in {"table.md": as_markdown(table), "table.csv": as_csv(table)}.items():
        _write(table.study.out / name, text)


def _head(table: Table) -> list[str]:
    differences = [f"{table.study.columns[0]} − {table.study.reference}"] if table.study.reference else []
    return ["row", "n", *table.study.columns, *differences]


def _cells(table: Table, row: TableRow) -> list[str]:
    """One row for people; what has no value yet says so."""
    seeds = len(table.study.seeds)
    count = str(row.finished) if row.finished == seeds else f"{row.finished} of {seeds}"
    if not row.finished:
        return [row.name, count, NOT_FINISHED, *[MISSING] * (len(_head(table)) - 3)]
    cells = [_shown(row.samples[column], column in _COUNTED) for column in table.study.columns]
    differences = [_shown(row.difference, sign="+")] if table.study.reference else []
    return [row.name, count, *cells, *differences]


def _shown(sample: Sample, counted: bool = False, sign: str = "") -> str:
    """Mean and, where there is one, standard deviation: `93.2 ± 0.4`; shares in percent."""
    if sample.mean is None:
        return MISSING
    scale = 1 if counted else 100
    deviation = "" if sample.sd is None else f" ± {scale * sample.sd:.1f}"
    return f"{scale * sample.mean:{sign}.1f}{deviation}"


def _write(path: Path, text: str) -> None:
    """Replace a file at one stroke."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)  # noqa: PTH105  Path.replace hides that this is the atomic step
