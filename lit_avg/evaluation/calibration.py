"""Fit the margin of the `coarsest within` policy on validation outcomes."""

import torch

from lit_avg.evaluation.outcomes import Outcomes
from lit_avg.routing.policies import CoarsestWithinPolicy
from lit_avg.utils.errors import UserError
from lit_avg.utils.finite import check_scores


def fit_delta(outcomes: Outcomes, max_accuracy_loss: float = 0.0) -> float:
    """The largest margin that keeps accuracy on these outcomes within `max_accuracy_loss` of the finest level's.

    Only the gaps between the router's scores matter, so those are what is tried, up to a thousand of them.

    Raises:
        ValueError: the outcomes come from a run without a router.
    """
    wanted = outcomes.correct[:, -1].double().mean() - max_accuracy_loss
    best = 0.0
    for delta in _margins(outcomes):
        chosen = outcomes.chosen_by(CoarsestWithinPolicy(delta)).unsqueeze(1)
        if outcomes.correct.gather(1, chosen).double().mean() >= wanted:
            best = delta
    return best


def fit_delta_to_budget(outcomes: Outcomes, budget: float) -> float:
    """The smallest margin that keeps the visual tokens on these outcomes within a share of the finest level's.

    Args:
        outcomes: of the questions to fit on.
        budget: the share, 0 to 1.

    Raises:
        ValueError: the outcomes come from a run without a router.
        UserError: even the coarsest level takes more.
    """
    finest = outcomes.visual_tokens[:, -1].sum()
    least = torch.ones(())
    for delta in _margins(outcomes):
        chosen = outcomes.chosen_by(CoarsestWithinPolicy(delta)).unsqueeze(1)
        if (least := outcomes.visual_tokens.gather(1, chosen).sum() / finest) <= budget:
            return delta
    raise UserError(f"--budget {budget:g}: the coarsest granularity alone takes {least:.3f} of the finest one's tokens")


def _margins(outcomes: Outcomes) -> list[float]:
    """The margins worth trying, ascending: those at which some choice changes, up to a thousand."""
    if outcomes.scores is None:
        raise ValueError("a margin can only be fitted on outcomes of a run that has a router")
    check_scores(outcomes.keys, outcomes.scores)
    gaps = (outcomes.scores.amax(dim=1, keepdim=True) - outcomes.scores).double().flatten().unique()
    quantiles = torch.linspace(0, 1, min(1000, len(gaps)), dtype=torch.double)
    if len(gaps) < 1_000_000:
        return gaps.quantile(quantiles).tolist()
    return [*gaps[:: len(gaps) // 1000].tolist(), gaps[-1].item()]  # `quantile` takes no more
