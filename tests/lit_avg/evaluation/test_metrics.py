import pytest
import torch

from lit_avg.evaluation.calibration import fit_delta
from lit_avg.evaluation.metrics import PolicyMetric, policy_metrics, with_defaults
from lit_avg.evaluation.outcomes import Outcomes
from lit_avg.result_names import METRICS, MetricMeaning
from lit_avg.utils.errors import UserError
from lit_avg.visual_tokens.granularity import Granularities

LEVELS = Granularities((1, 2, 4))


def outcomes() -> Outcomes:
    return Outcomes(
        keys=["c", "a", "b"],
        kinds=["number", "colour", "number"],
        granularities=LEVELS,
        correct=torch.tensor([[False, True, True], [True, True, False], [False, False, True]]),
        feedback=torch.zeros(3, 3),
        scores=torch.tensor([[-2.0, -1.0, -0.5], [-0.1, -2.0, -3.0], [-4.0, -3.0, -0.1]]),
        visual_tokens=torch.tensor([[5, 10, 20], [5, 10, 20], [7, 14, 28]]),
        text_tokens=torch.tensor([9, 9, 9]),
        tiles=torch.tensor([3, 3, 3]),
    )


def test_metrics_by_hand() -> None:
    metrics = policy_metrics(outcomes(), torch.tensor([1, 0, 2]))
    assert metrics["accuracy"] == 1.0
    assert metrics["tokens_per_tile"] == pytest.approx((2 + 1 + 4) / 3)
    assert metrics["visual_tokens"] == pytest.approx((10 + 5 + 28) / 3)
    assert metrics["token_share"] == pytest.approx((10 + 5 + 28) / (20 + 20 + 28))
    assert metrics["selected/number/4"] == 0.5
    assert metrics["selected/2"] == pytest.approx(1 / 3)


def test_kinds_are_judged_apart() -> None:
    metrics = policy_metrics(outcomes(), torch.tensor([2, 2, 2]))
    assert (metrics["accuracy/number"], metrics["accuracy/colour"]) == (1.0, 0.0)


def test_questions_without_an_image_count_for_accuracy_alone() -> None:
    seen = outcomes()
    seen.tiles[0], seen.visual_tokens[0] = 0, 0
    metrics = policy_metrics(seen, torch.tensor([0, 1, 1]))
    assert metrics["accuracy"] == pytest.approx(1 / 3)
    assert metrics["selected/2"] == 1.0
    assert metrics["token_share"] == pytest.approx((10 + 14) / (20 + 28))


def test_every_test_measures_what_tables_know_before_configs_are_checked() -> None:
    assert {metric.meaning.name: metric.meaning for metric in with_defaults([])} == METRICS


def test_a_metric_adds_up_what_it_is_shown_in_parts_to_the_same_number() -> None:
    chosen = torch.tensor([1, 0, 2])
    at_once = policy_metrics(outcomes(), chosen)
    for metric in with_defaults([]):
        for rows in ([0], [2, 1]):
            metric.update(outcomes().rows(torch.tensor(rows)), chosen[rows])
        told = metric.compute()
        name = metric.meaning.name
        told = {f"{name}/{key}": value for key, value in told.items()} if isinstance(told, dict) else {name: told}
        assert {key: at_once[key] for key in told} == {key: value.item() for key, value in told.items()}


class Nats(PolicyMetric):
    meaning = MetricMeaning("accuracy", "number")

    def __init__(self, computed: object = torch.zeros(2)) -> None:
        super().__init__()
        self.computed = computed

    def update(self, outcomes: Outcomes, chosen: torch.Tensor) -> None:
        outcomes.feedback.zero_()
        outcomes.correct.zero_()
        chosen.zero_()

    def compute(self) -> torch.Tensor:
        return self.computed  # pyright: ignore[reportReturnType]  of users' code nobody checks it


def test_a_metric_has_a_name_of_its_own_and_gives_a_number() -> None:
    with pytest.raises(UserError, match="there are two named 'accuracy'"):
        with_defaults([Nats()])
    with pytest.raises(UserError, match=r"Nats gives accuracy of shape \(2,\)"):
        policy_metrics(outcomes(), torch.tensor([0, 0, 0]), [Nats()])


@pytest.mark.parametrize(
    ("computed", "told"),
    [(3.5, "accuracy as 3.5"), ("abc", "accuracy as 'abc'"), ({"a": 2}, "accuracy/a as 2"), (torch.tensor(1j), "1.j")],
)
def test_what_is_no_tensor_of_a_real_number_is_refused(computed: object, told: str) -> None:
    with pytest.raises(UserError, match=f"metrics: Nats gives .*{told}.*; give a tensor of a real number"):
        policy_metrics(outcomes(), torch.tensor([0, 0, 0]), [Nats(computed)])


def test_a_metric_that_writes_into_what_it_is_shown_changes_nothing_for_others() -> None:
    seen, chosen = outcomes(), torch.tensor([1, 0, 2])
    alone = policy_metrics(seen, chosen)
    assert policy_metrics(seen, chosen, [Nats(torch.tensor(7.0)), *with_defaults([])]) == alone
    assert chosen.tolist() == [1, 0, 2]
    assert alone["accuracy"] == 1.0


class Unnamed(Nats):
    meaning = None  # pyright: ignore[reportAssignmentType]


def test_a_metric_says_what_it_is_by_words_that_tables_know_and_names_that_results_have_left() -> None:
    with pytest.raises(UserError, match="metrics: Unnamed has no `meaning`; give its class a MetricMeaning"):
        with_defaults([Unnamed()])
    with pytest.raises(UserError, match=r"unit of the metric 'nats' must be one of \('share', .*, but is 'percent'"):
        MetricMeaning("nats", "percent")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match=r"best of the metric 'nats' must be one of .*, but is 'highest'"):
        MetricMeaning("nats", "number", best="highest")  # pyright: ignore[reportArgumentType]
    for name in ("loss", "accuracy@4", "llm_flops_share"):
        named = type("Named", (Nats,), {"meaning": MetricMeaning(name, "number")})
        with pytest.raises(UserError, match=f"results tell something else as '{name}'; give Named another name"):
            with_defaults([named()])


def test_merged_outcomes_are_in_the_order_of_their_keys_and_equal_keys_are_refused() -> None:
    merged = Outcomes.merge([outcomes().rows(torch.tensor([0, 2])), outcomes().rows(torch.tensor([1]))]).sorted()
    with pytest.raises(UserError, match="two questions have the key b, so their outcomes cannot be told apart"):
        Outcomes.merge([outcomes(), outcomes().rows(torch.tensor([2]))])
    assert merged.keys == ["a", "b", "c"]
    assert merged.correct[2].tolist() == [False, True, True]
    assert merged.kinds == ["colour", "number", "number"]


def test_the_margin_is_the_largest_that_keeps_the_finest_levels_accuracy() -> None:
    # The finest level answers c and b: 2 of 3. A margin of 1.5 loses c, but a is always answered by the coarsest, so
    # 2 of 3 remain until 2.9 loses b as well; 1.9 is the largest gap between scores below that.
    assert fit_delta(outcomes()) == pytest.approx(1.9)
    assert fit_delta(outcomes(), max_accuracy_loss=0.4) == pytest.approx(3.9)


def test_without_accuracy_to_lose_no_margin_is_given() -> None:
    seen = outcomes()
    seen.correct[:, :2] = False
    seen.correct[:, 2] = True
    assert fit_delta(seen) < 0.5
