"""The losses of RGLF, each as its equation.

Source: paper, section 3.3 (Ranking Granularity to align LMM Feedback).
"""

from torch import Tensor


def ranking_loss(scores: Tensor, feedback: Tensor, margin: float = 1.0) -> Tensor:
    """Ask every better granularity to outscore every worse one by the LMM's own preference.

    rank = sum over pairs of max(0, s_worse - s_better + margin * (p_better - p_worse))

    Args:
        scores: router log-probabilities s, (Q, N).
        feedback: mean answer log-prob p of the LMM at each granularity, (Q, N); no gradient flows into it.
        margin: the paper's is 1.

    Returns:
        The pair sum, averaged over questions.

    The release weighs the margin by rank distance and averages per distance instead: see `release_ranking_loss`.
    """
    feedback, order = feedback.detach().sort(dim=1, descending=True, stable=True)
    scores = scores.gather(1, order)
    preference = feedback.unsqueeze(2) - feedback.unsqueeze(1)  # (Q, better, worse)
    shortfall = scores.unsqueeze(1) - scores.unsqueeze(2) + margin * preference
    return shortfall.relu().triu(diagonal=1).sum(dim=(1, 2)).mean()


def release_ranking_loss(scores: Tensor, feedback: Tensor, margin: float = 1.0) -> Tensor:
    """The ranking loss of the authors' release, shapes and arguments as in `ranking_loss`.

    rank = sum over rank distances d of mean over questions and pairs d ranks apart of
           max(0, s_worse - s_better + margin * d * (p_better - p_worse))

    Uniform scores and feedback 0, -1, -3 give mean(1, 2) + 2 * 3 = 7.5, where the pair sum is 1 + 2 + 3 = 6.
    """
    feedback, order = feedback.detach().sort(dim=1, descending=True, stable=True)
    scores = scores.gather(1, order)
    loss = scores.new_zeros(())
    for distance in range(1, scores.shape[1]):
        preference = feedback[:, :-distance] - feedback[:, distance:]
        shortfall = scores[:, distance:] - scores[:, :-distance] + margin * distance * preference
        loss = loss + shortfall.relu().mean()
    return loss


def best_granularity_loss(scores: Tensor, feedback: Tensor) -> Tensor:
    """Cross-entropy of the router with the granularity the LMM does best at, the coarsest of equals.

    ce = - s at argmax p, averaged over questions. Shapes as in `ranking_loss`.
    """
    best = feedback.detach().argmax(dim=1, keepdim=True)
    return -scores.gather(1, best).mean()
