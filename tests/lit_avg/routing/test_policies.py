from dataclasses import dataclass

import pytest
import torch

from lit_avg.routing.policies import (
    CoarsestWithinPolicy,
    FixedPolicy,
    OraclePolicy,
    Policy,
    PolicyInputs,
    RandomPolicy,
    RouterPolicy,
    all_policies,
    by_name,
    choose_levels,
    fixed_policies,
)
from lit_avg.utils.errors import UserError
from lit_avg.visual_tokens.granularity import Granularities

LEVELS = Granularities((4, 8, 16))

INPUTS = PolicyInputs(
    keys=["a", "b"],
    granularities=LEVELS,
    scores=torch.tensor([[-3.0, -1.0, -0.5], [-0.2, -2.0, -3.0]]),
    feedback=torch.tensor([[-1.0, -0.1, -0.1], [-4.0, -2.0, -0.3]]),
)


def test_routed_takes_the_most_probable_level() -> None:
    assert RouterPolicy().choose(INPUTS).tolist() == [2, 0]


def test_fixed_takes_its_level() -> None:
    assert FixedPolicy(8).choose(INPUTS).tolist() == [1, 1]  # the second of three


def test_fixed_speaks_of_tokens_per_tile_and_refuses_a_number_that_no_level_has() -> None:
    with pytest.raises(UserError, match=r"no granularity of 2 tokens per tile, only \[4, 8, 16\]"):
        FixedPolicy(2).check(LEVELS)


@pytest.mark.parametrize("margin", [-0.1, float("nan"), float("inf")])
def test_a_margin_that_no_level_could_keep_is_refused(margin: float) -> None:
    with pytest.raises(UserError, match=f"is {margin}; it must be a number of nats from 0 on"):
        CoarsestWithinPolicy(margin)


def test_the_oracle_takes_the_coarsest_of_the_best() -> None:
    assert OraclePolicy().choose(INPUTS).tolist() == [1, 2]
    assert OraclePolicy(margin=0.9).choose(INPUTS).tolist() == [0, 2]


def test_coarsest_within_gives_up_what_the_margin_allows() -> None:
    assert CoarsestWithinPolicy(0.0).choose(INPUTS).tolist() == [2, 0]
    assert CoarsestWithinPolicy(0.5).choose(INPUTS).tolist() == [1, 0]
    assert CoarsestWithinPolicy(9.0).choose(INPUTS).tolist() == [0, 0]


def test_random_depends_on_the_question_and_the_seed_alone() -> None:
    keys, levels = [str(number) for number in range(1000)], Granularities((1, 2, 4, 8, 16))
    drawn = RandomPolicy().choose(PolicyInputs(keys, levels))
    backwards = RandomPolicy().choose(PolicyInputs(keys[::-1], levels))
    assert torch.equal(drawn, backwards.flip(0))
    assert not torch.equal(drawn, RandomPolicy(seed=1).choose(PolicyInputs(keys, levels)))
    assert drawn.bincount(minlength=5).min() > 150  # 200 of each are expected, with a standard deviation of 13


def test_a_run_without_a_router_has_nobody_to_ask() -> None:
    with pytest.raises(UserError, match="asks the router"):
        choose_levels(RouterPolicy(), PolicyInputs(["a"], LEVELS))


def test_tables_name_policies_by_tokens_per_tile() -> None:
    levels = Granularities((1, 2, 4))
    names = list(by_name(all_policies(levels, delta=0.0, seed=0, margins=(0.1, 2.0)), levels))
    assert names[:-2] == ["router", "fixed 1", "fixed 2", "fixed 4", "random", "oracle", "coarsest within"]
    assert names[-2:] == ["coarsest within 0.1", "coarsest within 2"]


def test_two_policies_of_one_name_and_levels_that_are_not_there_are_refused() -> None:
    with pytest.raises(UserError, match="there are two named 'fixed 8'"):
        by_name([FixedPolicy(8), RandomPolicy(), FixedPolicy(8)], LEVELS)
    with pytest.raises(UserError, match="no granularity of 2 tokens per tile"):
        by_name([FixedPolicy(2)], LEVELS)


def test_whoever_asks_the_router_is_refused_where_there_is_none_before_anything_is_tested() -> None:
    for policy in (RouterPolicy(), CoarsestWithinPolicy(0.5)):
        with pytest.raises(UserError, match=f"'{policy.name}' asks the router, which this stage does not train"):
            by_name([policy], LEVELS, routed=False)
    assert list(by_name([*fixed_policies(LEVELS), RandomPolicy(), OraclePolicy()], LEVELS, routed=False))


@dataclass(frozen=True)
class Peeking(Policy):
    """Looks at the answers without saying so."""

    name = "peeking"

    def choose(self, inputs: PolicyInputs) -> torch.Tensor:
        return inputs.answer_feedback().argmax(dim=1)


@dataclass(frozen=True)
class Given(Policy):
    """Chooses what it is told to."""

    chosen: object
    name: str = "given"  # pyright: ignore[reportIncompatibleMethodOverride]

    def choose(self, inputs: PolicyInputs) -> torch.Tensor:
        return self.chosen  # pyright: ignore[reportReturnType]  of users' code nobody checks it


def test_only_a_policy_that_says_so_is_shown_the_answers() -> None:
    assert choose_levels(OraclePolicy(), INPUTS).tolist() == [1, 2]
    with pytest.raises(UserError, match="its class has to say so: `knows_the_answer = True`"):
        choose_levels(Peeking(), INPUTS)
    with pytest.raises(UserError, match="the oracle looks at the answers, and at inference there are none"):
        choose_levels(OraclePolicy(), PolicyInputs(INPUTS.keys, LEVELS, INPUTS.scores))


@pytest.mark.parametrize("chosen", [[0, 3], [-1, 0], [1], [0.0, 1.0]])
def test_what_is_no_level_for_each_question_is_refused(chosen: list[float]) -> None:
    with pytest.raises(UserError, match="the policy 'given' must choose a level from 0 to 2 for each of 2 questions"):
        choose_levels(Given(torch.tensor(chosen)), INPUTS)


def test_what_is_no_tensor_is_no_choice() -> None:
    with pytest.raises(UserError, match="the policy 'given' must choose by an int64 tensor, but gives list"):
        choose_levels(Given([0, 1]), INPUTS)


@pytest.mark.parametrize("name", ["", "a/b", "val", 3])
def test_a_policy_has_a_name_that_results_can_tell_from_what_else_they_tell(name: str) -> None:
    with pytest.raises(UserError, match=f"Given is named {name!r}; a name has letters, no `/`, and is not `val`"):
        by_name([Given(None, name)], LEVELS)


class Careless(Policy):
    """Rules a level out where the scores lie."""

    name = "careless"
    knows_the_answer = True

    def choose(self, inputs: PolicyInputs) -> torch.Tensor:
        inputs.answer_feedback()[:, 0] = -9.0
        inputs.router_scores()[:, 2] = -9.0
        return inputs.router_scores().argmax(dim=1)


def test_a_policy_that_writes_into_what_it_is_shown_changes_nothing_for_the_next() -> None:
    assert choose_levels(Careless(), INPUTS).tolist() == [1, 0]
    assert RouterPolicy().choose(INPUTS).tolist() == [2, 0]
    assert INPUTS.feedback is not None
    assert INPUTS.feedback[:, 0].tolist() == [-1.0, -4.0]
