import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_avg.routing.losses import best_granularity_loss, ranking_loss


def test_losses_0_1_3_with_uniform_scores_give_6() -> None:
    # (p0 - p1) + (p0 - p2) + (p1 - p2) = 1 + 3 + 2
    assert ranking_loss(torch.zeros(1, 3), -torch.tensor([[0.0, 1.0, 3.0]])).item() == 6


def test_scores_that_repeat_the_feedback_cost_nothing() -> None:
    feedback = torch.tensor([[-1.0, -0.5, -2.0]])
    assert ranking_loss(feedback.clone(), feedback).item() == 0


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 6))
def test_the_ranking_loss_equals_its_plain_double_loop(seed: int, questions: int, levels: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(questions, levels, generator=generator)
    feedback = torch.randn(questions, levels, generator=generator)
    total = 0.0
    for s, p in zip(scores.tolist(), feedback.tolist(), strict=True):
        ranked = sorted(range(levels), key=lambda level: -p[level])
        for i, better in enumerate(ranked):
            for worse in ranked[i + 1 :]:
                total += max(0.0, s[worse] - s[better] + p[better] - p[worse])
    torch.testing.assert_close(ranking_loss(scores, feedback), torch.tensor(total / questions), rtol=1e-4, atol=1e-5)


def test_no_gradient_reaches_the_lmm_through_the_margin() -> None:
    scores = torch.zeros(1, 3, requires_grad=True)
    feedback = torch.tensor([[0.0, -1.0, -3.0]], requires_grad=True)
    (ranking_loss(scores, feedback) + best_granularity_loss(scores, feedback)).backward()
    assert feedback.grad is None
    assert scores.grad is not None
    # each pair pushes its better one up and its worse one down; the cross-entropy pushes the best one up once more
    assert scores.grad.tolist() == [[-2.0 - 1.0, 0.0, 2.0]]


def test_cross_entropy_asks_for_the_coarsest_of_equally_good_levels() -> None:
    scores = torch.tensor([[-1.0, -2.0, -3.0]])
    assert best_granularity_loss(scores, torch.tensor([[-5.0, -0.1, -0.1]])).item() == 2
