"""Objectives: what a router learns from the LMM's feedback, each a pure function of scores and feedback.

An objective of one's own derives from `Objective` and is named by its `class_path` in `RGLF`'s `objective`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, cast

from torch import Tensor

from lit_avg.routing.losses import best_granularity_loss, ranking_loss, release_ranking_loss
from lit_avg.semantics import Choices, Ranking
from lit_avg.utils.arguments import check_number
from lit_avg.utils.errors import UserError


class Objective(ABC):
    """A loss of a router's scores."""

    parts: ClassVar[tuple[str, ...]] = ()
    """Names of what is logged beside the loss."""

    @abstractmethod
    def __call__(self, scores: Tensor, feedback: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        """The loss under `loss`, and each of `parts`: scalars, means over the questions.

        Args:
            scores: router log-probabilities of Q questions with an image, at least one, (Q, N).
            feedback: the LMM's mean answer log-prob at each level, without a gradient, (Q, N).
            tokens: tokens per tile of each level, coarse to fine, (N,).
        """

    @property
    def in_words(self) -> str:
        """What `lit-avg describe` says of it."""
        return type(self).__name__

    def under(self, semantics: Choices) -> "Objective":
        """This objective with what the model's semantics decide of it; most are the same under all."""
        return self


@dataclass(frozen=True)
class RankingObjective(Objective):
    """RGLF: loss = ranking_weight * rank + alpha * ce (paper, section 3.3).

    Args:
        alpha: weight of the cross-entropy with the best granularity; 0 leaves it out (Table 4, g).
        ranking_weight: weight of the ranking loss; 0 leaves it out (Table 4, f).
        ranking: which ranking loss; as the model's semantics say if not given, the paper's without any.
        margin: of the ranking loss; likewise.

    Raises:
        UserError: a weight or the margin is negative or no number, or no loss has a weight.
    """

    alpha: float = 0.1
    ranking_weight: float = 1.0
    ranking: Ranking | None = None
    margin: float | None = None
    parts: ClassVar[tuple[str, ...]] = ("ranking_loss", "ce_loss")

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha, least=0)
        check_number("ranking_weight", self.ranking_weight, least=0)
        if self.margin is not None:
            check_number("margin", self.margin, least=0)
        if self.alpha == self.ranking_weight == 0:
            raise UserError("alpha and ranking_weight are both 0, so that there is no loss; leave one of them above 0")

    def __call__(self, scores: Tensor, feedback: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        """See `Objective`."""
        rank_by = release_ranking_loss if self.ranking == "rank distance" else ranking_loss
        rank = rank_by(scores, feedback, 1.0 if self.margin is None else self.margin)
        ce = best_granularity_loss(scores, feedback)
        return {"loss": self.ranking_weight * rank + self.alpha * ce, "ranking_loss": rank, "ce_loss": ce}

    @property
    def in_words(self) -> str:
        """See `Objective`."""
        return "ranking loss against the LMM's feedback + alpha x cross-entropy with the best granularity"

    def under(self, semantics: Choices) -> "RankingObjective":
        """See `Objective`: they say which ranking loss and margin are meant where this does not."""
        margin = semantics.margin if self.margin is None else self.margin
        return replace(self, ranking=self.ranking or semantics.ranking, margin=margin)


def checked_losses(objective: Objective, losses: Mapping[str, Tensor], learns: bool = False) -> dict[str, Tensor]:
    """What an objective gave, as it is logged on every rank.

    Args:
        objective: which.
        losses: what it gave.
        learns: whether the router is to learn from it, and so the loss has to lead back to its scores.

    Raises:
        UserError: it is not the loss and the parts that the objective names, not a number each, or nothing to learn.
    """
    expected, name = ("loss", *objective.parts), type(objective).__name__
    given = cast(object, losses)  # of users' code nobody checks it
    if not isinstance(given, Mapping):
        raise UserError(f"the objective {name} gives {type(given).__name__}; give a dict with its tensor as `loss`")
    if set(losses) != set(expected):
        found = ", ".join(losses) or "nothing"
        raise UserError(f"the objective {name} gives {found}, but `loss` and its `parts` are {', '.join(expected)}")
    values = cast(Mapping[str, object], losses)
    if bad := [part for part in expected if not isinstance(values[part], Tensor)]:
        raise UserError(f"the objective {name} gives {bad[0]} as {type(values[bad[0]]).__name__}; give a tensor")
    if bad := [part for part in expected if losses[part].dim()]:
        raise UserError(f"the objective {name} gives {bad[0]} of shape {tuple(losses[bad[0]].shape)}; give its mean")
    if learns and not losses["loss"].requires_grad:
        raise UserError(f"the objective {name} gives a loss without a gradient; compute it from `scores`, not detached")
    return {part: losses[part] for part in expected}
