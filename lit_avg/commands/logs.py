"""`lit-avg logs STUDY RUN`: what a run has printed; `--follow` goes on until it ends."""

import sys
import time

from lit_avg.studies.launchers.process import last_lines
from lit_avg.studies.runs.plan import named_run, split_seed
from lit_avg.studies.runs.run_record import LOG
from lit_avg.studies.spec.study import load_study
from lit_avg.utils.command_line import VerbParser, whole_number
from lit_avg.utils.errors import UserError
from lit_avg.utils.locks import owner_of


def main(argv: list[str]) -> int:
    """Run the verb.

    Args:
        argv: its arguments.

    Returns:
        The exit status, 0.

    Raises:
        UserError: the study has no such run, or it has printed nothing yet.
    """
    parser = VerbParser(prog="lit-avg logs", description=__doc__)
    parser.add_argument("study", help="a study file")
    parser.add_argument("run", help="name of a run, or of a row of the table; NAME:SEED means another seed")
    parser.add_argument("--seed", type=whole_number(least=0), help="which of the study's seeds (default: the first)")
    parser.add_argument(
        "--lines", type=whole_number(least=1), default=50, help="how many lines, counted from the end (default: 50)"
    )
    parser.add_argument("--follow", action="store_true", help="go on with what it prints until it ends")
    options = parser.parse_args(argv)
    study = load_study(options.study, unchecked=True)
    name, seed = split_seed(study, options.run)
    run = named_run(study, name, seed if options.seed is None else options.seed)
    path = run.directory / LOG
    if not path.is_file():
        raise UserError(f"{run.label} has printed nothing yet; its log will be {path}")
    position = path.stat().st_size
    print("\n".join(last_lines(path, options.lines)), flush=True)
    while options.follow and owner_of(run.directory) is not None:
        time.sleep(0.5)
        with path.open("rb") as log:
            log.seek(position)
            new = log.read()
        position += len(new)
        sys.stdout.write(new.decode(errors="replace"))
        sys.stdout.flush()
    return 0
