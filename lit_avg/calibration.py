"""Fit the margin of the `coarsest within` policy on validation outcomes."""

import torch

from lit_avg.outcomes import Outcomes
from lit_avg.policies import CoarsestWithin


def fit_delta(outcomes: Outcomes, max_accuracy_loss: float = 0.0) -> float:
    """The largest margin that keeps accuracy on these outcomes within `max_accuracy_loss` of the finest level's.

    Only the gaps between the router's scores matter, so those are what is tried, up to a thousand of them.

    Raises:
        ValueError: the outcomes come from a run without a router.
    """
    if outcomes.scores is None:
        raise ValueError("a margin can only be fitted on outcomes of a run that has a router")
    gaps = (outcomes.scores.amax(dim=1, keepdim=True) - outcomes.scores).double().flatten().unique()
    quantiles = torch.linspace(0, 1, min(1000, len(gaps)), dtype=torch.double)
    wanted = outcomes.correct[:, -1].double().mean() - max_accuracy_loss
    best = 0.0
    for delta in gaps.quantile(quantiles).tolist() if len(gaps) < 1_000_000 else gaps[:: len(gaps) // 1000].tolist():
        chosen = CoarsestWithin(delta).choose(outcomes).unsqueeze(1)
        if outcomes.correct.gather(1, chosen).double().mean() >= wanted:
            best = delta
    return best
