from dataclasses import dataclass

import pytest
import torch

from lit_avg.routing.policies import CoarsestWithin, Fixed, Oracle, Random, Routed, all_policies
from lit_avg.utils.errors import UserError
from lit_avg.visual_tokens.granularity import Granularities


@dataclass
class Seen:
    keys: list[str]
    scores: torch.Tensor | None
    feedback: torch.Tensor


SEEN = Seen(
    keys=["a", "b"],
    scores=torch.tensor([[-3.0, -1.0, -0.5], [-0.2, -2.0, -3.0]]),
    feedback=torch.tensor([[-1.0, -0.1, -0.1], [-4.0, -2.0, -0.3]]),
)


def test_routed_takes_the_most_probable_level() -> None:
    assert Routed().choose(SEEN).tolist() == [2, 0]


def test_fixed_takes_its_level() -> None:
    assert Fixed(8, Granularities((4, 8, 16))).choose(SEEN).tolist() == [1, 1]  # the second of three


def test_fixed_speaks_of_tokens_per_tile_and_refuses_a_number_that_no_level_has() -> None:
    with pytest.raises(UserError, match=r"no granularity of 2 tokens per tile, only \[4, 8, 16\]"):
        Fixed(2, Granularities((4, 8, 16)))


@pytest.mark.parametrize("margin", [-0.1, float("nan"), float("inf")])
def test_a_margin_that_no_level_could_keep_is_refused(margin: float) -> None:
    with pytest.raises(UserError, match=f"is {margin}; it must be a number of nats from 0 on"):
        CoarsestWithin(margin)


def test_the_oracle_takes_the_coarsest_of_the_best() -> None:
    assert Oracle().choose(SEEN).tolist() == [1, 2]
    assert Oracle(margin=0.9).choose(SEEN).tolist() == [0, 2]


def test_coarsest_within_gives_up_what_the_margin_allows() -> None:
    assert CoarsestWithin(0.0).choose(SEEN).tolist() == [2, 0]
    assert CoarsestWithin(0.5).choose(SEEN).tolist() == [1, 0]
    assert CoarsestWithin(9.0).choose(SEEN).tolist() == [0, 0]


def test_random_depends_on_the_question_and_the_seed_alone() -> None:
    keys = [str(number) for number in range(1000)]
    drawn = Random(5).choose(Seen(keys, None, torch.zeros(1000, 5)))
    backwards = Random(5).choose(Seen(keys[::-1], None, torch.zeros(1000, 5)))
    assert torch.equal(drawn, backwards.flip(0))
    assert not torch.equal(drawn, Random(5, seed=1).choose(Seen(keys, None, torch.zeros(1000, 5))))
    assert drawn.bincount(minlength=5).min() > 150  # 200 of each are expected, with a standard deviation of 13


def test_a_run_without_a_router_has_nobody_to_ask() -> None:
    with pytest.raises(UserError, match="asks the router"):
        Routed().choose(Seen(["a"], None, torch.zeros(1, 3)))


def test_tables_name_policies_by_tokens_per_tile() -> None:
    assert list(all_policies(Granularities((1, 2, 4)), 0.0, 0, margins=(0.1, 2.0)))[-2:] == [
        "coarsest within 0.1",
        "coarsest within 2",
    ]
    names = list(all_policies(Granularities((1, 2, 4)), delta=0.0, seed=0))
    assert names == ["router", "fixed 1", "fixed 2", "fixed 4", "random", "oracle", "coarsest within"]
