"""`lit-avg consolidate`: the weights of a run that DeepSpeed or FSDP2 has sharded, in one file.

    lit-avg consolidate runs/vicuna-7b/stage3

Whoever asks for a run's weights has it done by itself; the command does it where there is time for it.
"""

from lit_avg.runs.consolidation import weights_path
from lit_avg.runs.run_folder import checkpoint_path
from lit_avg.utils.command_line import VerbParser
from lit_avg.utils.errors import UserError


def main(argv: list[str]) -> int:
    """Consolidate, and say where the weights are.

    Raises:
        UserError: there is no checkpoint, or it is torn.
    """
    parser = VerbParser(
        prog="lit-avg consolidate", description="Bring the parts of a sharded checkpoint into one file."
    )
    parser.add_argument("run", help="run directory, or a checkpoint in one")
    source = str(parser.parse_args(argv).run)
    path = weights_path(source)
    if not path.is_file():
        raise UserError(f"there is no checkpoint at {path}; name the directory of a run that has been fitted")
    print(f"{path} has the weights" + (" anyway" if path == checkpoint_path(source) else ""))
    return 0
