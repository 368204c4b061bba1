import pytest
import torch

from lit_avg.routing.losses import best_granularity_loss, ranking_loss, release_ranking_loss
from lit_avg.routing.objectives import Objective, RankingObjective, checked_losses
from lit_avg.semantics import PRESETS
from lit_avg.utils.errors import UserError

SCORES = torch.tensor([[-0.5, -1.5, -2.0], [-3.0, -0.2, -1.0]])
FEEDBACK = torch.tensor([[0.0, -1.0, -3.0], [-1.0, -0.5, -0.1]])
TOKENS = torch.tensor([1, 2, 4])


def test_the_papers_objective_is_the_weighted_sum_of_its_two_losses() -> None:
    losses = RankingObjective(alpha=0.3, ranking_weight=2.0)(SCORES, FEEDBACK, TOKENS)
    rank, ce = ranking_loss(SCORES, FEEDBACK), best_granularity_loss(SCORES, FEEDBACK)
    assert losses == {"loss": 2.0 * rank + 0.3 * ce, "ranking_loss": rank, "ce_loss": ce}


def test_semantics_decide_what_the_objective_leaves_open_and_nothing_else() -> None:
    release = PRESETS["release"]
    rank = RankingObjective(0.0).under(release)(SCORES, FEEDBACK, TOKENS)["ranking_loss"]
    assert rank == release_ranking_loss(SCORES, FEEDBACK)
    own = RankingObjective(0.0, ranking="pair sum", margin=0.1).under(release)
    assert own(SCORES, FEEDBACK, TOKENS)["ranking_loss"] == ranking_loss(SCORES, FEEDBACK, 0.1)


class Cheap(Objective):
    parts = ("tokens",)

    def __call__(self, scores: torch.Tensor, feedback: torch.Tensor, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        expected = scores.exp() @ tokens.float()
        return {"loss": expected.mean(), "tokens": expected}


def test_an_objective_gives_what_it_names_and_numbers() -> None:
    losses = Cheap()(SCORES, FEEDBACK, TOKENS)
    with pytest.raises(UserError, match=r"the objective Cheap gives tokens of shape \(2,\)"):
        checked_losses(Cheap(), losses)
    with pytest.raises(UserError, match="gives loss, but `loss` and its `parts` are loss, tokens"):
        checked_losses(Cheap(), {"loss": losses["loss"]})
    for given, told in ((None, "NoneType"), (losses["loss"], "Tensor")):
        with pytest.raises(UserError, match=f"the objective Cheap gives {told}; give a dict with its tensor as `loss`"):
            checked_losses(Cheap(), given)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="gives tokens as float; give a tensor"):
        checked_losses(Cheap(), {"loss": losses["loss"], "tokens": 1.5})  # pyright: ignore[reportArgumentType]


def test_a_loss_that_a_router_cannot_learn_from_is_refused_where_it_is_to_learn() -> None:
    means = {"loss": SCORES.mean(), "tokens": SCORES.mean()}
    assert checked_losses(Cheap(), means) == means  # as in validation
    with pytest.raises(UserError, match="Cheap gives a loss without a gradient; compute it from `scores`"):
        checked_losses(Cheap(), means, learns=True)
