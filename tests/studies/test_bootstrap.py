import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from lit_avg.studies.bootstrap import paired_interval

SHAPES = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6)
DIFFERENCES = arrays(np.float64, SHAPES, elements=st.sampled_from([-1.0, 0.0, 1.0]))


@given(SHAPES)
@settings(max_examples=10, deadline=None)
def test_rows_with_the_same_answers_differ_by_nothing(shape: tuple[int, ...]) -> None:
    assert paired_interval(np.zeros(shape)) == (0, 0)


@given(DIFFERENCES, st.randoms())
@settings(max_examples=25, deadline=None)
def test_the_order_of_questions_does_not_matter(
    differences: NDArray[np.float64], random: "np.random.Generator"
) -> None:
    order = list(range(differences.shape[1]))
    random.shuffle(order)
    assert paired_interval(differences[:, order]) == paired_interval(differences)


@given(DIFFERENCES)
@settings(max_examples=25, deadline=None)
def test_the_interval_lies_among_the_differences(differences: NDArray[np.float64]) -> None:
    low, high = paired_interval(differences)
    assert differences.min() <= low <= high <= differences.max()


def test_drawing_sorts_of_questions_is_drawing_questions() -> None:
    random = np.random.default_rng(5)
    differences = random.choice([-1.0, 0.0, 1.0], p=[0.1, 0.6, 0.3], size=(3, 200))
    means = list[float]()
    for _ in range(4000):  # the plain way: draw three seeds, then 200 questions
        seeds, questions = random.integers(0, 3, 3), random.integers(0, 200, 200)
        means.append(differences[np.ix_(seeds, questions)].mean())
    assert paired_interval(differences) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.008)


@pytest.mark.parametrize("seeds", [1, 4])
def test_the_truth_lies_inside_as_often_as_is_said(seeds: int) -> None:
    random, inside = np.random.default_rng(seeds), 0
    for _ in range(200):
        # a question is as hard with every seed: 20 % are won, 10 % lost, by all seeds alike
        differences = np.tile(random.choice([-1.0, 0.0, 1.0], p=[0.1, 0.7, 0.2], size=150), (seeds, 1))
        low, high = paired_interval(differences)
        inside += low <= 0.1 <= high
    # 190 of 200 are expected, with a standard deviation of 3; drawing questions anew in each of four seeds gives 132
    assert 180 <= inside <= 200


def test_more_questions_make_it_narrower_and_disagreeing_seeds_wider() -> None:
    def width(differences: NDArray[np.float64]) -> float:
        low, high = paired_interval(differences)
        return high - low

    few = np.tile([1.0, 0.0, 0.0, -1.0], (2, 5))
    assert width(np.tile(few, (1, 100))) < width(few) / 5  # a tenth, for a hundred times as many
    agreeing = np.tile([0.0, 0.0, 1.0, 0.0], (4, 100))
    disagreeing = np.array([[0.0], [0.0], [0.0], [1.0]]) * np.ones((1, 400))
    assert agreeing.mean() == disagreeing.mean() == 0.25
    assert width(disagreeing) > 5 * width(agreeing)
