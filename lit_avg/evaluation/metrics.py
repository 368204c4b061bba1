"""What a policy's choice is worth: accuracy, tokens and selection shares of a set of `Outcomes`."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lit_avg.evaluation.outcomes import Outcomes
from lit_avg.visual_tokens.granularity import Granularities

METRICS = ("accuracy", "tokens_per_tile", "visual_tokens", "token_share", "selected")
"""What the names that `policy_metrics` gives begin with."""


def policy_metrics(outcomes: Outcomes, chosen: Tensor) -> dict[str, float]:
    """Metrics of one choice of levels.

    Args:
        outcomes: Q questions at N granularities.
        chosen: the level chosen for each question, (Q,).

    Returns:
        `accuracy` and `accuracy/<kind>`, shares of exact answers; `tokens_per_tile`, the mean granularity chosen;
        `visual_tokens`, mean tokens of an image in the LLM's sequence; `token_share`, the same as a share of the
        finest level; `selected/<tokens>` and `selected/<kind>/<tokens>`, shares of questions that got each level.
        Questions without an image count for accuracy alone.
    """
    granularities = outcomes.granularities
    correct = outcomes.correct.gather(1, chosen.unsqueeze(1)).squeeze(1).double()
    metrics = {"accuracy": correct.mean().item()}
    for kind, members in _by_kind(outcomes.kinds):
        metrics[f"accuracy/{kind}"] = correct[members].mean().item()
    pictured = outcomes.tiles > 0
    if not bool(pictured.any()):
        return metrics
    visual_tokens = outcomes.visual_tokens.gather(1, chosen.unsqueeze(1)).squeeze(1).double()
    level_tokens = torch.tensor(granularities.tokens, dtype=torch.double)
    metrics["tokens_per_tile"] = level_tokens[chosen[pictured]].mean().item()
    metrics["visual_tokens"] = visual_tokens[pictured].mean().item()
    metrics["token_share"] = (visual_tokens.sum() / outcomes.visual_tokens[:, -1].sum()).item()
    metrics |= _selected(chosen[pictured], granularities, "selected")
    for kind, members in _by_kind(outcomes.kinds):
        metrics |= _selected(chosen[members][pictured[members]], granularities, f"selected/{kind}")
    return metrics


def _by_kind(kinds: list[str]) -> Iterable[tuple[str, Tensor]]:
    """Each kind with the indices of its questions, in alphabetical order."""
    for kind in sorted(set(kinds)):
        yield kind, torch.tensor([index for index, other in enumerate(kinds) if other == kind])


def _selected(chosen: Tensor, granularities: Granularities, name: str) -> dict[str, float]:
    if not len(chosen):
        return {}
    shares = chosen.bincount(minlength=len(granularities)).double() / len(chosen)
    return {f"{name}/{tokens}": share for tokens, share in zip(granularities.tokens, shares.tolist(), strict=True)}
