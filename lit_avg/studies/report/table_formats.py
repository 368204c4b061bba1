"""A study's table in a terminal, as text, Markdown and CSV, and the files beside its runs.

People read shares in percent with the standard deviation behind; the CSV holds the plain numbers. A terminal's table is
fitted to its width, with the best in bold.
"""

import csv
import io
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lit_avg.studies.report.latex import as_latex
from lit_avg.studies.report.results import reference_name
from lit_avg.studies.report.table_cells import SPEED_UP, Cell, TableSheet
from lit_avg.utils.atomic_io import write_whole

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


def print_table(sheet: TableSheet) -> None:
    """Show the table: fitted to a terminal, a line per row however long when piped."""
    if sys.stdout.isatty():
        show(sheet)
    else:
        sys.stdout.write(as_text(sheet))


def as_text(sheet: TableSheet) -> str:
    """The table in columns of plain text, where `*` stands before the best."""
    rows = [sheet.head, *([line.name, line.count, *map(_text, line.cells)] for line in sheet.lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    lines.insert(1, "─" * len(lines[0]))
    return "\n".join([*lines, "", *sheet.explained("*"), ""])


def as_markdown(sheet: TableSheet) -> str:
    """The table in Markdown, what a reader must know beneath it."""
    head = [_escaped(name) for name in sheet.head]
    lines = [[_escaped(line.name), line.count, *map(_markdown, line.cells)] for line in sheet.lines]
    rows = [head, [":--", *["--:"] * (len(head) - 1)], *lines]
    notes = [f"- {_escaped(note)}" for note in sheet.explained("bold")]
    return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), "", *notes, ""])


def as_csv(sheet: TableSheet) -> str:
    """Plain numbers, empty where there is none.

    `row`, `n`; each metric's mean and, as `<metric>:sd`, its standard deviation; the difference of the first metric to
    the reference row with `:low` and `:high`, the ends of its interval, the speed-up and which row that `reference` is;
    the paper's numbers as `<metric>:paper` where a row has one; at last how many `seeds` there should be and the row's
    `state`.
    """
    text = io.StringIO()
    lines = [dict(_plain(sheet, number)) for number in range(len(sheet.lines))]
    writer = csv.DictWriter(text, list(lines[0]) if lines else sheet.head, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def write_tables(sheet: TableSheet) -> None:
    """Write `table.md`, `table.csv` and `table.tex` into the study's folder."""
    forms = {"table.md": as_markdown(sheet), "table.csv": as_csv(sheet), "table.tex": as_latex(sheet)}
    for name, text in forms.items():
        write_whole(sheet.table.study.out / name, text)


def _text(cell: Cell) -> str:
    return ("*" if cell.best else "") + (cell.mean or cell.said) + cell.behind


def _markdown(cell: Cell) -> str:
    mean = cell.said if cell.mean is None else f"**{cell.mean}**" if cell.best else cell.mean
    return mean + cell.behind


def _escaped(text: str) -> str:
    """What Markdown would take for its own; an underscore inside a word it leaves alone."""
    return re.sub(r"([\\|*`<\[\]])", r"\\\1", text)


def _plain(sheet: TableSheet, number: int) -> Iterator[tuple[str, object]]:
    """The CSV's entries for one row, by column."""
    line, columns = sheet.lines[number], sheet.table.study.columns
    yield from {"row": line.name, "n": line.row.finished}.items()
    names = [*columns, *(["difference", SPEED_UP] if len(line.cells) > len(columns) else [])]
    for name, cell in zip(names, line.cells, strict=True):
        yield from {name: cell.sample.mean, f"{name}:sd": cell.sample.sd}.items()
        if name == "difference":
            known = cell.interval
            yield from {"difference:low": known and known.low, "difference:high": known and known.high}.items()
    if len(line.cells) > len(columns):
        yield "reference", reference_name(sheet.table.study, line.row.row)
    for name, cells in zip(columns, zip(*(line.cells for line in sheet.lines), strict=True), strict=False):
        if any(cell.paper is not None for cell in cells):
            yield f"{name}:paper", cells[number].paper
    yield from {"seeds": len(line.row.origins), "state": line.row.state}.items()


def show(sheet: TableSheet, console: "Console | None" = None) -> None:
    """Print the table.

    Args:
        sheet: the table.
        console: where to; the terminal if not given.
    """
    from rich import box  # rich takes as long to load as all else does
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    shown = Table(box=box.SIMPLE_HEAD)
    for number, head in enumerate(sheet.head):
        name = head.replace("/", "\n").replace(" − ", " −\n")
        shown.add_column(Text(name), justify="left" if number == 0 else "right", overflow="fold")
    for line in sheet.lines:
        style = "" if line.row.finished else "dim"
        shown.add_row(Text(line.name), Text(line.count), *map(_cell_in_bold, line.cells), style=style)
    console.print(shown)
    for note in sheet.explained("bold"):
        console.print(f"  {note}", markup=False, highlight=False, soft_wrap=True)


def _cell_in_bold(cell: Cell) -> "Text":
    from rich.text import Text

    return Text.assemble((cell.mean or cell.said, "bold" if cell.best else ""), cell.behind)
