"""`lit-avg table STUDY`: make a study's table from the results there are; what is not finished is shown as such."""

import sys

from lit_avg.studies.report.latex import as_latex
from lit_avg.studies.report.table import sheet_of
from lit_avg.studies.report.table_cells import TableSheet
from lit_avg.studies.report.table_formats import as_csv, as_markdown, print_table, write_tables
from lit_avg.studies.spec.study import load_study
from lit_avg.utils.atomic_io import READ_ONLY, writable, write_whole
from lit_avg.utils.command_line import VerbParser

FORMS = {"markdown": as_markdown, "latex": as_latex, "csv": as_csv}


def main(argv: list[str]) -> int:
    """Run the verb: print one form, and write `table.md`, `table.csv` and `table.tex` into the study's folder.

    Args:
        argv: its arguments.

    Returns:
        The exit status, 0.
    """
    parser = VerbParser(prog="lit-avg table", description=__doc__)
    parser.add_argument("study", help="a study file, for example experiments/studies/quickstart.yaml")
    parser.add_argument("--format", choices=["text", *FORMS, "html"], default="text", help="what is printed")
    options = parser.parse_args(argv)
    sheet = sheet_of(load_study(options.study))
    if options.format == "text":
        print_table(sheet)
    elif options.format == "html":
        _write_page(sheet)
    else:
        sys.stdout.write(FORMS[options.format](sheet))
    _write_beside(sheet)
    return 0


def _write_beside(sheet: TableSheet) -> None:
    """Write the files; who may only read has read the table by now."""
    try:
        write_tables(sheet)
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        print(f"lit-avg: not written: {error.filename} ({error.strerror})", file=sys.stderr)


def _write_page(sheet: TableSheet) -> None:
    """Write `table.html`, and print it where somebody else reads; a person in a terminal is told where it is."""
    from lit_avg.studies.report.html_page import as_page  # jinja2 and matplotlib take long to load

    path, page = writable(sheet.table.study.out) / "table.html", as_page(sheet)
    write_whole(path, page)
    sys.stdout.write(f"{path}\n" if sys.stdout.isatty() else page)
