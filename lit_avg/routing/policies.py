"""Policies: how the granularity of each question is chosen. They choose, they never learn.

A policy of one's own derives from `Policy` and is named by its `class_path` in a stage's `policies`; its `name` is what
rows of a study find it by.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
from torch import Tensor

from lit_avg.result_names import COARSEST_WITHIN, FIXED, ORACLE, RANDOM, ROUTER, VALIDATION
from lit_avg.utils.errors import UserError
from lit_avg.utils.finite import check_feedback, check_scores
from lit_avg.utils.hashing import number_of
from lit_avg.visual_tokens.granularity import Granularities


@dataclass(frozen=True)
class PolicyInputs:
    """What a policy may look at.

    Args:
        keys: Q names of questions.
        granularities: the N levels, coarse to fine.
        scores: router log-probabilities, (Q, N); None where there is no trained router.
        feedback: the LMM's mean answer log-prob at each level, (Q, N); None where nobody knows the answers, or the
            policy does not say that it looks at them.
    """

    keys: list[str]
    granularities: Granularities
    scores: Tensor | None = None
    feedback: Tensor | None = None

    def router_scores(self) -> Tensor:
        """`scores`.

        Raises:
            UserError: there are none, or they are not finite.
        """
        if self.scores is None:
            raise UserError("this policy asks the router, but the run has none; use a fixed policy or a run of stage 4")
        check_scores(self.keys, self.scores)  # the most of numbers among which there is a NaN is none
        return self.scores

    def answer_feedback(self) -> Tensor:
        """`feedback`.

        Raises:
            UserError: there is none, or it is not finite.
        """
        if self.feedback is None:
            raise UserError("this policy looks at the answers; its class has to say so: `knows_the_answer = True`")
        check_feedback(self.keys, self.feedback)
        return self.feedback


class Policy(ABC):
    """Chooses a level for each question."""

    knows_the_answer: ClassVar[bool] = False
    """Whether it looks at the LMM's feedback on the answers, which is shown to no other and not known at inference."""
    asks_the_router: ClassVar[bool] = False
    """Whether it looks at the router's scores; a stage that trains no router has none."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is called in results, tables and figures."""

    @abstractmethod
    def choose(self, inputs: PolicyInputs) -> Tensor:
        """(Q,) int64 level of each question, 0 the coarsest."""

    def check(self, granularities: Granularities) -> None:  # noqa: B027  most policies go with all
        """Refuse, before anything is run, levels that the policy cannot choose from.

        Args:
            granularities: those of the model.

        Raises:
            UserError: says why.
        """


@dataclass(frozen=True)
class RouterPolicy(Policy):
    """The router's most probable granularity: the paper's own policy."""

    asks_the_router: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """See `Policy`."""
        return ROUTER

    def choose(self, inputs: PolicyInputs) -> Tensor:
        """See `Policy`."""
        return inputs.router_scores().argmax(dim=1)


@dataclass(frozen=True)
class FixedPolicy(Policy):
    """The same granularity for every question (Table 4, a).

    Args:
        tokens: its tokens per tile.
    """

    tokens: int

    @property
    def name(self) -> str:
        """See `Policy`."""
        return f"{FIXED}{self.tokens}"

    def choose(self, inputs: PolicyInputs) -> Tensor:
        """See `Policy`."""
        return torch.full((len(inputs.keys),), inputs.granularities.index(self.tokens))

    def check(self, granularities: Granularities) -> None:
        """See `Policy`: there is none of so many tokens."""
        granularities.index(self.tokens)


@dataclass(frozen=True)
class RandomPolicy(Policy):
    """A granularity drawn uniformly (Table 4, b) from seed and question, so that neither order nor batching matters."""

    seed: int = 0

    @property
    def name(self) -> str:
        """See `Policy`."""
        return RANDOM

    def choose(self, inputs: PolicyInputs) -> Tensor:
        """See `Policy`."""
        levels = [number_of(f"{self.seed} {key}") % len(inputs.granularities) for key in inputs.keys]
        return torch.tensor(levels, dtype=torch.long)


@dataclass(frozen=True)
class OraclePolicy(Policy):
    """The coarsest granularity whose feedback is within `margin` nats of the best: it knows the answer."""

    margin: float = 0.0
    knows_the_answer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_margin(ORACLE, self.margin)

    @property
    def name(self) -> str:
        """See `Policy`."""
        return ORACLE if self.margin == 0 else f"{ORACLE} {self.margin:g}"

    def choose(self, inputs: PolicyInputs) -> Tensor:
        """See `Policy`."""
        return _coarsest_within(inputs.answer_feedback(), self.margin)


@dataclass(frozen=True)
class CoarsestWithinPolicy(Policy):
    """The coarsest granularity the router scores within `delta` nats of its best: fewer tokens at a chosen risk.

    Args:
        delta: the margin.
        fitted: it is the one that was fitted on validation data, and is not part of the policy's name.
    """

    delta: float
    fitted: bool = False
    asks_the_router: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_margin(COARSEST_WITHIN, self.delta)

    @property
    def name(self) -> str:
        """See `Policy`."""
        return COARSEST_WITHIN if self.fitted else f"{COARSEST_WITHIN} {self.delta:g}"

    def choose(self, inputs: PolicyInputs) -> Tensor:
        """See `Policy`."""
        return _coarsest_within(inputs.router_scores(), self.delta)


def fixed_policies(granularities: Granularities) -> list[Policy]:
    """One fixed policy per level, coarse to fine."""
    return [FixedPolicy(tokens) for tokens in granularities.tokens]


def all_policies(granularities: Granularities, delta: float, seed: int, margins: Sequence[float] = ()) -> list[Policy]:
    """Every policy a trained router is compared with, in the order of tables.

    Args:
        granularities: the levels.
        delta: the margin of `coarsest within` that was fitted.
        seed: of the random policy.
        margins: others, each a policy `coarsest within <margin>`.
    """
    return [
        RouterPolicy(),
        *fixed_policies(granularities),
        RandomPolicy(seed),
        OraclePolicy(),
        CoarsestWithinPolicy(delta, fitted=True),
        *(CoarsestWithinPolicy(margin) for margin in margins),
    ]


def by_name(policies: Sequence[Policy], granularities: Granularities, routed: bool = True) -> dict[str, Policy]:
    """Policies by what tables call them.

    Args:
        policies: in the order of tables.
        granularities: what they are to choose from.
        routed: whether there is a trained router to ask.

    Raises:
        UserError: two have one name, a name is no part of a path, or a policy does not go with levels or stage.
    """
    named = dict[str, Policy]()
    for policy in policies:
        name = cast(object, policy.name)  # of users' code nobody checks it
        if not isinstance(name, str) or not name.strip() or "/" in name or name == VALIDATION:
            raise UserError(
                f"policies: {type(policy).__name__} is named {name!r}; a name has letters, no `/`, and is not "
                f"`{VALIDATION}`, under which results tell of the validation"
            )
        if name in named:
            raise UserError(f"policies: there are two named {name!r}; leave one out, or give it another `name`")
        if policy.asks_the_router and not routed:
            raise UserError(f"policies: {policy.name!r} asks the router, which this stage does not train; leave it out")
        policy.check(granularities)
        named[name] = policy
    return named


def choose_levels(policy: Policy, inputs: PolicyInputs) -> Tensor:
    """The level that a policy chooses for each question, (Q,) int64; the answers are shown only to one that says so.

    Raises:
        UserError: the policy looks at answers that nobody knows, or what it gives is no level for each question.
    """
    if policy.knows_the_answer and inputs.feedback is None:
        raise UserError(
            f"the {policy.name} looks at the answers, and at inference there are none; choose another policy"
        )
    own = replace(  # a policy that writes into what it is shown shall not change what is shown to the next
        inputs,
        scores=None if inputs.scores is None else inputs.scores.clone(),
        feedback=inputs.feedback.clone() if inputs.feedback is not None and policy.knows_the_answer else None,
    )
    chosen = cast(object, policy.choose(own))
    count, levels = len(inputs.keys), len(inputs.granularities)
    if not isinstance(chosen, Tensor):
        raise UserError(f"the policy {policy.name!r} must choose by an int64 tensor, but gives {type(chosen).__name__}")
    if chosen.dtype != torch.long or chosen.shape != (count,) or not bool(((chosen >= 0) & (chosen < levels)).all()):
        found = f"{str(chosen.dtype).removeprefix('torch.')} of shape {tuple(chosen.shape)}"
        raise UserError(
            f"the policy {policy.name!r} must choose a level from 0 to {levels - 1} for each of {count} questions, as "
            f"int64 of shape ({count},), but gives {found}: {chosen.flatten()[:5].tolist()}"
        )
    return chosen


def _coarsest_within(values: Tensor, margin: float) -> Tensor:
    """(Q, N) to (Q,): the first level whose value is within `margin` of the row's best."""
    too_low = values < values.amax(dim=1, keepdim=True) - margin
    return too_low.long().cumprod(dim=1).sum(dim=1)


def _check_margin(policy: str, margin: float) -> None:
    """Refuse what is no margin: nothing is less than a NaN, and no level is better than the best."""
    if not (math.isfinite(margin) and margin >= 0):
        raise UserError(f"the margin of `{policy}` is {margin}; it must be a number of nats from 0 on, such as 0.5")
