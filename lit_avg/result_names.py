"""The names that a run writes and a study reads: of policies and metrics, and of what `result.json` tells.

Studies know no training code, and training none of them; what both have to call by one name stands here. Policies and
metrics of one's own are not here: `lit-avg check` tells a study of those that a config names.
"""

from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

from lit_avg.utils.errors import UserError

RESULT, OUTCOMES = "result.json", "outcomes.csv"
"""Files that a run leaves in its folder: a row for itself, and after a test one for each question."""

SAVING = "saving.json"
"""File in a run's folder: `save` and `step`, the seconds that the last saving and the longest step took."""

OWN, BEFORE, PARENT = "own", "own before calibration", "parent"
"""Entries of `RunResult.checkpoint`: the hash of the run's own, what it was before `lit-avg calibrate`, and that of the
run whose weights it began from."""


class RunResult(TypedDict, total=False):
    """What `result.json` tells of a run; results of earlier versions lack some of it.

    Args:
        run: name of its folder.
        stage: class of the stage.
        seed: of all that was drawn.
        steps: of the optimiser.
        config: all that the configs came to.
        metrics: the last validation's as `val/<metric>`, a test's as `<policy>/<metric>`.
        commit: of the code.
        dirty: whether the code was another than the commit's.
        data: hash of the manifests.
        checkpoint: SHA-256 of checkpoints, by `OWN`, `BEFORE` and `PARENT`.
        versions: of Python and the libraries.
        machine: what it was made on.
        seconds: that each command took.
        questions: hash of the samples of the test split and the keys of the questions.
    """

    run: str
    stage: str
    seed: int | None
    steps: int
    config: Any
    metrics: dict[str, float]
    commit: str | None
    dirty: bool
    data: str | None
    checkpoint: dict[str, str | None]
    versions: dict[str, str]
    machine: dict[str, str | int]
    seconds: dict[str, float]
    questions: str | None


ROUTER, RANDOM, ORACLE = "router", "random", "oracle"
"""Names of policies: the router's own choice, a random one, and the one that knows the answers."""

FIXED, COARSEST_WITHIN = "fixed ", "coarsest within"
"""How the names of policies begin that always take one level, and of the router's coarser choices."""

VALIDATION = "val"
"""What stands before the metrics of a validation, where a test's have the name of a policy."""

NOT_METRICS = ("loss", "tokens_per_tile_share", "llm_flops_share")
"""What results tell under names like those of metrics: a validation's loss, and what choices cost."""

Unit = Literal["share", "count", "number", "factor"]
Best = Literal["high", "low"]


@dataclass(frozen=True)
class MetricMeaning:
    """What a metric's numbers mean.

    Args:
        name: what it is called in results and as a column of a table.
        unit: a share, which people read in percent; a count, as of tokens; another number; a factor, as in `2.5x`.
        best: whether the highest or the lowest value is marked as the best. Of tokens none is: whoever takes the
            coarsest level for everything has the fewest, and no merit.
        by_kind: it is measured for each kind of question as well, as `name/<kind>`.

    Raises:
        UserError: unit or best value is none that tables know.
    """

    name: str
    unit: Unit
    best: Best | None = None
    by_kind: bool = False

    def __post_init__(self) -> None:
        for what, value, known in (("unit", self.unit, get_args(Unit)), ("best", self.best, (*get_args(Best), None))):
            if value not in known:
                raise UserError(f"{what} of the metric {self.name!r} must be one of {known}, but is {value!r}")


ACCURACY = MetricMeaning("accuracy", "share", best="high", by_kind=True)
TOKENS_PER_TILE = MetricMeaning("tokens_per_tile", "count")
VISUAL_TOKENS = MetricMeaning("visual_tokens", "count")
TOKEN_SHARE = MetricMeaning("token_share", "share")
SELECTED = MetricMeaning("selected", "share", by_kind=True)

METRICS = {it.name: it for it in (ACCURACY, TOKENS_PER_TILE, VISUAL_TOKENS, TOKEN_SHARE, SELECTED)}
"""What every test measures."""
