"""Metrics: what a policy's choice of levels is worth, each a torchmetrics `Metric` of `Outcomes` and chosen levels.

A metric of one's own derives from `PolicyMetric` and is named by its `class_path` in a stage's `metrics`. Its `meaning`
says what it is called, in which unit it is and which values are good; tables learn that from there.

Samples that a loader shows twice to fill up ranks are dropped where the outcomes of all ranks are gathered, and metrics
are fed with what is left, the same on every rank. So they are exact, and do not gather anything themselves.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lit_avg.evaluation.outcomes import Outcomes
from lit_avg.result_names import (
    ACCURACY,
    NOT_METRICS,
    SELECTED,
    TOKEN_SHARE,
    TOKENS_PER_TILE,
    VISUAL_TOKENS,
    MetricMeaning,
)
from lit_avg.utils.errors import UserError


class PolicyMetric(Metric):
    """One number, or several, that a choice of levels is worth."""

    meaning: ClassVar[MetricMeaning]
    """Its name, unit and best value."""

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False)

    def add_sum(self, name: str, size: tuple[int, ...] = ()) -> None:
        """A state that questions are added up in, in double precision: sums of counts stay exact."""
        self.add_state(name, default=torch.zeros(size, dtype=torch.double), dist_reduce_fx="sum")

    @abstractmethod
    def update(self, outcomes: Outcomes, chosen: Tensor) -> None:
        """Take questions into account.

        Args:
            outcomes: Q questions at N granularities.
            chosen: the level chosen for each question, (Q,).
        """

    @abstractmethod
    def compute(self) -> Tensor | Mapping[str, Tensor] | None:
        """The number; or several, by what follows the metric's name and a `/`; None of questions that tell nothing."""


class Accuracy(PolicyMetric):
    """Share of exact answers; questions without an image count."""

    meaning = ACCURACY
    correct: Tensor
    questions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("correct")
        self.add_sum("questions")

    def update(self, outcomes: Outcomes, chosen: Tensor) -> None:
        """See `PolicyMetric`."""
        self.correct += _at(outcomes.correct, chosen).sum()
        self.questions += len(chosen)

    def compute(self) -> Tensor:
        """See `PolicyMetric`."""
        return self.correct / self.questions


class _MeanOfImages(PolicyMetric):
    """A mean over the questions that have an image."""

    total: Tensor
    questions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("total")
        self.add_sum("questions")

    def update(self, outcomes: Outcomes, chosen: Tensor) -> None:
        """See `PolicyMetric`."""
        pictured = outcomes.tiles > 0
        self.total += self.values(outcomes, chosen)[pictured].sum()
        self.questions += pictured.sum()

    def compute(self) -> Tensor | None:
        """See `PolicyMetric`."""
        return self.total / self.questions if self.questions > 0 else None

    @abstractmethod
    def values(self, outcomes: Outcomes, chosen: Tensor) -> Tensor:
        """What the mean is of, (Q,)."""


class TokensPerTile(_MeanOfImages):
    """The mean granularity chosen."""

    meaning = TOKENS_PER_TILE

    def values(self, outcomes: Outcomes, chosen: Tensor) -> Tensor:
        """See `_MeanOfImages`."""
        return torch.tensor(outcomes.granularities.tokens)[chosen]


class VisualTokens(_MeanOfImages):
    """Mean tokens of an image in the LLM's sequence."""

    meaning = VISUAL_TOKENS

    def values(self, outcomes: Outcomes, chosen: Tensor) -> Tensor:
        """See `_MeanOfImages`."""
        return _at(outcomes.visual_tokens, chosen)


class TokenShare(PolicyMetric):
    """Visual tokens in all as a share of the finest level's."""

    meaning = TOKEN_SHARE
    tokens: Tensor
    finest: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("tokens")
        self.add_sum("finest")

    def update(self, outcomes: Outcomes, chosen: Tensor) -> None:
        """See `PolicyMetric`."""
        self.tokens += _at(outcomes.visual_tokens, chosen).sum()
        self.finest += outcomes.visual_tokens[:, -1].sum()

    def compute(self) -> Tensor | None:
        """See `PolicyMetric`."""
        return self.tokens / self.finest if self.finest > 0 else None


class SelectedShares(PolicyMetric):
    """Shares of the questions with an image that got each level, by its tokens per tile."""

    meaning = SELECTED
    levels: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.tokens: Sequence[int] = ()
        self.add_state("levels", default=[], dist_reduce_fx="cat")

    def update(self, outcomes: Outcomes, chosen: Tensor) -> None:
        """See `PolicyMetric`."""
        self.tokens = outcomes.granularities.tokens
        self.levels.append(chosen[outcomes.tiles > 0])

    def compute(self) -> dict[str, Tensor] | None:
        """See `PolicyMetric`."""
        levels = dim_zero_cat(self.levels)
        if not len(levels):
            return None
        shares = levels.bincount(minlength=len(self.tokens)).double() / len(levels)
        return {f"{tokens}": share for tokens, share in zip(self.tokens, shares, strict=True)}


def default_metrics() -> list[PolicyMetric]:
    """What every evaluation measures."""
    return [Accuracy(), TokensPerTile(), VisualTokens(), TokenShare(), SelectedShares()]


def with_defaults(metrics: Sequence[PolicyMetric]) -> tuple[PolicyMetric, ...]:
    """The default metrics and others behind them.

    Raises:
        UserError: two have one name, or a name is no part of a path or stands for something else in results.
    """
    named = dict[str, PolicyMetric]()
    for metric in (*default_metrics(), *metrics):
        if not isinstance(getattr(metric, "meaning", None), MetricMeaning):
            raise UserError(f"metrics: {type(metric).__name__} has no `meaning`; give its class a MetricMeaning")
        name = metric.meaning.name
        if name in named:
            raise UserError(f"metrics: there are two named {name!r}; leave one out, or give it another name")
        if not name.strip() or "/" in name:
            raise UserError(f"metrics: {type(metric).__name__} is named {name!r}; a name has letters, and no `/`")
        if name in NOT_METRICS or name.startswith(f"{ACCURACY.name}@"):
            raise UserError(
                f"metrics: results tell something else as {name!r}; give {type(metric).__name__} another name"
            )
        named[name] = metric
    return tuple(named.values())


def policy_metrics(
    outcomes: Outcomes, chosen: Tensor, metrics: Sequence[PolicyMetric] | None = None
) -> dict[str, float]:
    """Metrics of one choice of levels.

    Args:
        outcomes: Q questions at N granularities.
        chosen: the level chosen for each question, (Q,).
        metrics: those to compute; the default ones if not given.

    Returns:
        Values by metric, `accuracy`; those that are told by kind of question have `accuracy/<kind>` as well, and
        those of several numbers a name for each, `selected/<tokens>` and `selected/<kind>/<tokens>`.

    Raises:
        UserError: a metric gives what is no number.
    """
    values = dict[str, float]()
    for metric in default_metrics() if metrics is None else metrics:
        name = metric.meaning.name
        values |= _values(metric, name, outcomes, chosen)
        for kind, members in _by_kind(outcomes.kinds) if metric.meaning.by_kind else ():
            values |= _values(metric, f"{name}/{kind}", outcomes.rows(members), chosen[members])
    return values


def _values(metric: PolicyMetric, name: str, outcomes: Outcomes, chosen: Tensor) -> dict[str, float]:
    """What a metric says of some questions, and of them alone."""
    metric.reset()
    # copies, so that a metric that writes into what it is shown does not change what others are shown
    metric.update(outcomes.rows(torch.arange(len(outcomes))), chosen.clone())
    computed: object = metric.compute()
    metric.reset()
    if computed is None:
        return {}
    several = isinstance(computed, Mapping)
    parts = cast(Mapping[str, object], computed) if several else {"": computed}
    values = {f"{name}/{part}" if several else name: value for part, value in parts.items()}
    return {part: _number(metric, part, value) for part, value in values.items()}


def _number(metric: PolicyMetric, name: str, value: object) -> float:
    """What a metric computed, which must be one number in a tensor."""
    if not isinstance(value, Tensor) or value.is_complex():
        raise UserError(f"metrics: {type(metric).__name__} gives {name} as {value!r}; give a tensor of a real number")
    if value.numel() != 1:
        raise UserError(f"metrics: {type(metric).__name__} gives {name} of shape {tuple(value.shape)}")
    return value.item()


def _at(values: Tensor, chosen: Tensor) -> Tensor:
    """(Q, N) to (Q,): the value at the level chosen."""
    return values.gather(1, chosen.unsqueeze(1)).squeeze(1)


def _by_kind(kinds: list[str]) -> Iterable[tuple[str, Tensor]]:
    """Each kind with the indices of its questions, in alphabetical order."""
    for kind in sorted(set(kinds)):
        yield kind, torch.tensor([index for index, other in enumerate(kinds) if other == kind])
