"""`lit-avg figures STUDY`: draw a study's figures from the results there are; what is not finished is named."""

from pathlib import Path

from lit_avg.studies.report.figure_cache import FIGURES
from lit_avg.studies.spec.study import load_study
from lit_avg.utils.atomic_io import writable
from lit_avg.utils.command_line import VerbParser


def main(argv: list[str]) -> int:
    """Run the verb: write PNG and PDF into the study's `figures`, and print their names and what they miss.

    Where the study can only be read, they go into a folder of their own.

    Args:
        argv: its arguments.

    Returns:
        The exit status, 0.
    """
    parser = VerbParser(prog="lit-avg figures", description=__doc__)
    parser.add_argument("study", help="a study file, for example experiments/studies/quickstart.yaml")
    parser.add_argument("--out", type=Path, help="folder for the figures (default: `figures` in the study's folder)")
    options = parser.parse_args(argv)
    study = load_study(options.study)
    folder = options.out or writable(study.out / FIGURES)
    from lit_avg.studies.report.figures import draw_figures  # matplotlib takes a second: not before the study is read

    for path in draw_figures(study, print, folder):
        print(path)
    return 0
