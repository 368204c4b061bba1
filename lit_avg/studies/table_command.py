"""`lit-avg table STUDY`: make a study's table from the results there are; what is not finished is shown as such."""

import argparse
import sys

from lit_avg.studies.cells import sheet_of
from lit_avg.studies.latex import as_latex
from lit_avg.studies.study import load_study
from lit_avg.studies.tables import as_csv, as_markdown, print_table, write_tables

FORMS = {"markdown": as_markdown, "latex": as_latex, "csv": as_csv}


def main(argv: list[str]) -> int:
    """Run the verb: write `table.md`, `table.csv` and `table.tex` into the study's folder and print one form.

    Args:
        argv: its arguments.

    Returns:
        The exit status, 0.
    """
    parser = argparse.ArgumentParser(prog="lit-avg table", description=__doc__)
    parser.add_argument("study", help="a study file, for example experiments/studies/quickstart.yaml")
    parser.add_argument("--format", choices=["text", *FORMS], default="text", help="what is printed")
    options = parser.parse_args(argv)
    sheet = sheet_of(load_study(options.study))
    write_tables(sheet)
    if options.format == "text":
        print_table(sheet)
    else:
        sys.stdout.write(FORMS[options.format](sheet))
    return 0
