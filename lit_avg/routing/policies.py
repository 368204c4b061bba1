"""Policies: how the granularity of each question is chosen. They choose, they never learn."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lit_avg.utils.errors import UserError
from lit_avg.utils.finite import check_feedback, check_scores
from lit_avg.utils.hashing import number_of
from lit_avg.visual_tokens.granularity import Granularities


class Evidence(Protocol):
    """What a policy may look at; `lit_avg.evaluation.outcomes.Outcomes` has it."""

    @property
    def keys(self) -> list[str]:
        """Q names of questions."""
        ...

    @property
    def scores(self) -> Tensor | None:
        """Router log-probabilities, (Q, N)."""
        ...

    @property
    def feedback(self) -> Tensor:
        """The LMM's mean answer log-prob at each level, (Q, N)."""
        ...


@dataclass(frozen=True)
class Unanswered:
    """Evidence at inference, when nobody knows the answer."""

    keys: list[str]
    scores: Tensor | None

    @property
    def feedback(self) -> Tensor:
        """There is none.

        Raises:
            UserError: a policy asks for it.
        """
        raise UserError("the oracle looks at the answers, and at inference there are none; choose another policy")


class Policy(Protocol):
    """Chooses a level for each question."""

    def choose(self, evidence: Evidence) -> Tensor:
        """(Q,) int64 level of each question, 0 the coarsest."""
        ...


@dataclass(frozen=True)
class Routed:
    """The router's most probable granularity: the paper's own policy."""

    def choose(self, evidence: Evidence) -> Tensor:
        """See `Policy`."""
        return _scores(evidence).argmax(dim=1)


@dataclass(frozen=True)
class Fixed:
    """The same granularity for every question (Table 4, a).

    Args:
        tokens: its tokens per tile.
        granularities: those of the model.

    Raises:
        UserError: there is none of so many tokens.
    """

    tokens: int
    granularities: Granularities

    def __post_init__(self) -> None:
        self.granularities.index(self.tokens)

    def choose(self, evidence: Evidence) -> Tensor:
        """See `Policy`."""
        return torch.full((len(evidence.keys),), self.granularities.index(self.tokens))


@dataclass(frozen=True)
class Random:
    """A granularity drawn uniformly (Table 4, b) from seed and question, so that neither order nor batching matters."""

    levels: int
    seed: int = 0

    def choose(self, evidence: Evidence) -> Tensor:
        """See `Policy`."""
        draws = [number_of(f"{self.seed} {key}") % self.levels for key in evidence.keys]
        return torch.tensor(draws, dtype=torch.long)


@dataclass(frozen=True)
class Oracle:
    """The coarsest granularity whose feedback is within `margin` nats of the best: it knows the answer."""

    margin: float = 0.0

    def __post_init__(self) -> None:
        _check_margin("oracle", self.margin)

    def choose(self, evidence: Evidence) -> Tensor:
        """See `Policy`."""
        check_feedback(evidence.keys, evidence.feedback)
        return _coarsest_within(evidence.feedback, self.margin)


@dataclass(frozen=True)
class CoarsestWithin:
    """The coarsest granularity the router scores within `delta` nats of its best: fewer tokens at a chosen risk."""

    delta: float

    def __post_init__(self) -> None:
        _check_margin("coarsest within", self.delta)

    def choose(self, evidence: Evidence) -> Tensor:
        """See `Policy`."""
        return _coarsest_within(_scores(evidence), self.delta)


def fixed_policies(granularities: Granularities) -> dict[str, Policy]:
    """One fixed policy per level, named by its tokens per tile."""
    return {f"fixed {tokens}": Fixed(tokens, granularities) for tokens in granularities.tokens}


def all_policies(
    granularities: Granularities, delta: float, seed: int, margins: Sequence[float] = ()
) -> dict[str, Policy]:
    """Every policy a trained router is compared with, by the name it has in tables.

    Args:
        granularities: the levels.
        delta: the margin of `coarsest within` that was fitted.
        seed: of the random policy.
        margins: others, each a policy `coarsest within <margin>`.
    """
    return {
        "router": Routed(),
        **fixed_policies(granularities),
        "random": Random(len(granularities), seed),
        "oracle": Oracle(),
        "coarsest within": CoarsestWithin(delta),
        **{f"coarsest within {margin:g}": CoarsestWithin(margin) for margin in margins},
    }


def _coarsest_within(values: Tensor, margin: float) -> Tensor:
    """(Q, N) to (Q,): the first level whose value is within `margin` of the row's best."""
    too_low = values < values.amax(dim=1, keepdim=True) - margin
    return too_low.long().cumprod(dim=1).sum(dim=1)


def _check_margin(policy: str, margin: float) -> None:
    """Refuse what is no margin: nothing is less than a NaN, and no level is better than the best."""
    if not (math.isfinite(margin) and margin >= 0):
        raise UserError(f"the margin of `{policy}` is {margin}; it must be a number of nats from 0 on, such as 0.5")


def _scores(evidence: Evidence) -> Tensor:
    if evidence.scores is None:
        raise UserError("this policy asks the router, but the run has none; use a fixed policy or a run of stage 4")
    check_scores(evidence.keys, evidence.scores)  # the most of numbers among which there is a NaN is none
    return evidence.scores
