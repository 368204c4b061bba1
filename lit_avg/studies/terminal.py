"""A study's table in a terminal: fitted to its width, the best in bold."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lit_avg.studies.cells import Cell, Sheet


def show(sheet: Sheet, console: Console | None = None) -> None:
    """Print the table.

    Args:
        sheet: the table.
        console: where to; the terminal if not given.
    """
    console = console or Console()
    shown = Table(box=box.SIMPLE_HEAD)
    for number, head in enumerate(sheet.head):
        name = head.replace("/", "\n").replace(" − ", " −\n")
        shown.add_column(Text(name), justify="left" if number == 0 else "right", overflow="fold")
    for line in sheet.lines:
        style = "" if line.row.finished else "dim"
        shown.add_row(Text(line.name), Text(line.count), *map(_text, line.cells), style=style)
    console.print(shown)
    for note in sheet.explained("bold"):
        console.print(f"  {note}", markup=False, highlight=False, soft_wrap=True)


def _text(cell: Cell) -> Text:
    return Text.assemble((cell.mean or cell.said, "bold" if cell.best else ""), cell.behind)
