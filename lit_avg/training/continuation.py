"""Which checkpoint a fit may go on from: one that was saved by its own strategy and, under ZeRO, on as many ranks.

All of that is known before data or weights are read.
"""

from pathlib import Path
from typing import Any

import lightning as L

from lit_avg.runs.consolidation import SAVING_KEY, check_parts, read_shared
from lit_avg.runs.sharded_checkpoint import ZERO, is_folder, read_index
from lit_avg.training.handover import read_checkpoint
from lit_avg.training.sharded_state import sharding
from lit_avg.utils.errors import UserError

_OTHERWISE = "or begin anew with --overwrite"


def read_continued(path: Path, trainer: L.Trainer) -> dict[str, Any]:
    """What a checkpoint says that a fit goes on from; of a sharded one all but the sharded tensors.

    Raises:
        UserError: nothing whole is there, or it was not saved as this fit would save it.
    """
    strategy = sharding(trainer.strategy)
    if not is_folder(path):
        content = read_checkpoint(path)
        if strategy is not None:
            raise UserError(
                f"{path} is of a run that was not sharded, but trainer.strategy is {strategy}; go on with the strategy "
                f"it was saved by, {_OTHERWISE}"
            )
        if SAVING_KEY in content:
            raise UserError(
                f"{path} was consolidated: it has weights, but not the optimiser's state, so no fit can go on from it; "
                f"name the folder it was made from, {_OTHERWISE}"
            )
        return content
    index = read_index(path)
    if index.strategy != strategy:
        raise UserError(
            f"{path} was saved by {index.strategy}, but trainer.strategy is {strategy or 'one that does not shard'}; "
            f"go on with {index.strategy}, {_OTHERWISE}"
        )
    ranks = trainer.num_nodes * trainer.num_devices  # the world is not set up yet
    if index.strategy.startswith(ZERO) and index.ranks != ranks:
        raise UserError(
            f"{path} was saved on {index.ranks} ranks, but this fit has {ranks}, and {index.strategy} goes on only "
            f"with as many; set trainer.devices and num_nodes to make {index.ranks}, {_OTHERWISE}"
        )
    check_parts(path)
    return read_shared(path)
