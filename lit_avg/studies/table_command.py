"""`lit-avg table STUDY`: make a study's table from the results there are; what is not finished is shown as such."""

import argparse
import sys

from lit_avg.studies.results import collect
from lit_avg.studies.study import load_study
from lit_avg.studies.tables import as_csv, as_markdown, print_table, write_tables


def main(argv: list[str]) -> int:
    """Run the verb: write `table.md` and `table.csv` into the study's folder and print one form.

    Args:
        argv: its arguments.

    Returns:
        The exit status, 0.
    """
    parser = argparse.ArgumentParser(prog="lit-avg table", description=__doc__)
    parser.add_argument("study", help="a study file, for example experiments/studies/quickstart.yaml")
    parser.add_argument("--format", choices=["text", "markdown", "csv"], default="text", help="what is printed")
    options = parser.parse_args(argv)
    table = collect(load_study(options.study))
    write_tables(table)
    if options.format == "text":
        print_table(table)
    else:
        sys.stdout.write(as_markdown(table) if options.format == "markdown" else as_csv(table))
    return 0
