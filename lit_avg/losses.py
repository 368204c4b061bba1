"""The losses of RGLF, each as its equation.

Source: paper, section 3.3 (Ranking Granularity to align LMM Feedback).
"""

from torch import Tensor


def ranking_loss(scores: Tensor, feedback: Tensor) -> Tensor:
    """Ask every better granularity to outscore every worse one by the LMM's own preference.

    rank = sum over pairs of max(0, s_worse - s_better + p_better - p_worse)

    Args:
        scores: router log-probabilities s, (Q, N).
        feedback: mean answer log-prob p of the LMM at each granularity, (Q, N); no gradient flows into it.

    Returns:
        The pair sum, averaged over questions.

    The release weighs the margin by rank distance and averages per distance instead.
    """
    feedback, order = feedback.detach().sort(dim=1, descending=True, stable=True)
    scores = scores.gather(1, order)
    margin = feedback.unsqueeze(2) - feedback.unsqueeze(1)  # (Q, better, worse)
    shortfall = scores.unsqueeze(1) - scores.unsqueeze(2) + margin
    return shortfall.relu().triu(diagonal=1).sum(dim=(1, 2)).mean()


def best_granularity_loss(scores: Tensor, feedback: Tensor) -> Tensor:
    """Cross-entropy of the router with the granularity the LMM does best at, the coarsest of equals.

    ce = - s at argmax p, averaged over questions. Shapes as in `ranking_loss`.
    """
    best = feedback.detach().argmax(dim=1, keepdim=True)
    return -scores.gather(1, best).mean()
