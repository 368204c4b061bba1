import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from lit_avg.studies.report.bootstrap import paired_interval
from lit_avg.studies.report.outcomes_csv import sample_of

SHAPES = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6)
DIFFERENCES = arrays(np.float64, SHAPES, elements=st.sampled_from([-1.0, 0.0, 1.0]))


def apart(differences: NDArray[np.float64]) -> tuple[float, float]:
    """The interval of questions with an image each."""
    return paired_interval(differences, np.arange(differences.shape[1]).astype(np.str_))


@given(SHAPES)
@settings(max_examples=10, deadline=None)
def test_rows_with_the_same_answers_differ_by_nothing(shape: tuple[int, ...]) -> None:
    assert apart(np.zeros(shape)) == (0, 0)


@given(DIFFERENCES, st.randoms(), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_the_order_of_questions_and_the_names_of_images_do_not_matter(
    differences: NDArray[np.float64], random: "np.random.Generator", on_an_image: int
) -> None:
    images = np.arange(differences.shape[1]) // on_an_image
    order = list(range(differences.shape[1]))
    random.shuffle(order)
    renamed = np.char.add("image ", (100 - images[order]).astype(np.str_))
    assert paired_interval(differences[:, order], renamed) == paired_interval(differences, images.astype(np.str_))


@given(DIFFERENCES)
@settings(max_examples=25, deadline=None)
def test_the_interval_lies_among_the_differences(differences: NDArray[np.float64]) -> None:
    low, high = apart(differences)
    assert differences.min() <= low <= high <= differences.max()


def test_drawing_sorts_of_questions_is_drawing_questions() -> None:
    random = np.random.default_rng(5)
    differences = random.choice([-1.0, 0.0, 1.0], p=[0.1, 0.6, 0.3], size=(3, 200))
    means = list[float]()
    for _ in range(4000):  # the plain way: draw three seeds, then 200 questions
        seeds, questions = random.integers(0, 3, 3), random.integers(0, 200, 200)
        means.append(differences[np.ix_(seeds, questions)].mean())
    assert apart(differences) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.008)


@pytest.mark.parametrize("seeds", [1, 4])
def test_the_truth_lies_inside_as_often_as_is_said(seeds: int) -> None:
    random, inside = np.random.default_rng(seeds), 0
    for _ in range(200):
        # a question is as hard with every seed: 20 % are won, 10 % lost, by all seeds alike
        differences = np.tile(random.choice([-1.0, 0.0, 1.0], p=[0.1, 0.7, 0.2], size=150), (seeds, 1))
        low, high = apart(differences)
        inside += low <= 0.1 <= high
    # 190 of 200 are expected, with a standard deviation of 3; drawing questions anew in each of four seeds gives 132
    assert 180 <= inside <= 200


def test_more_questions_make_it_narrower_and_disagreeing_seeds_wider() -> None:
    def width(differences: NDArray[np.float64]) -> float:
        low, high = apart(differences)
        return high - low

    few = np.tile([1.0, 0.0, 0.0, -1.0], (2, 5))
    assert width(np.tile(few, (1, 100))) < width(few) / 5  # a tenth, for a hundred times as many
    agreeing = np.tile([0.0, 0.0, 1.0, 0.0], (4, 100))
    disagreeing = np.array([[0.0], [0.0], [0.0], [1.0]]) * np.ones((1, 400))
    assert agreeing.mean() == disagreeing.mean() == 0.25
    assert width(disagreeing) > 5 * width(agreeing)


def test_images_of_several_sizes_are_drawn_as_hand_arithmetic_has_it() -> None:
    # Two images of 1 and 3 questions, one seed; all on the first differ by 1, all on the second by 0. Drawn are (first,
    # first): 2 / 2 = 1; (first, second) either way: 1 / 4; (second, second): 0 / 6. So 1 and 0 have a quarter each.
    low, high = paired_interval(np.array([[1.0, 0.0, 0.0, 0.0]]), np.array(["a", "b", "b", "b"]))
    assert (low, high) == (0, 1)
    # With a hundred images like each, each mean is a ratio of sums: 100 of 400 questions differ, 1/4. By the delta
    # method its sd is sqrt(sum over images of (difference - size / 4)^2) / 400 = sqrt(100 * (0.75^2 + 0.75^2)) / 400.
    differences = np.tile([1.0, 0.0, 0.0, 0.0], 100)[None]
    images = np.repeat(np.arange(200), np.tile([1, 3], 100)).astype(np.str_)
    sd = (100 * (0.75**2 + 0.75**2)) ** 0.5 / 400
    assert paired_interval(differences, images) == pytest.approx((0.25 - 1.96 * sd, 0.25 + 1.96 * sd), abs=0.006)


def test_drawing_sorts_of_images_is_drawing_images() -> None:
    random = np.random.default_rng(7)
    sizes = random.integers(1, 6, 60)  # questions on each of 60 images
    images = np.repeat(np.arange(60), sizes)
    hard = random.choice([-1.0, 0.0, 1.0], p=[0.1, 0.5, 0.4], size=(3, 60))
    differences = np.where(random.random((3, len(images))) < 0.7, hard[:, images], 0.0)
    means = list[float]()
    for _ in range(4000):  # the plain way: draw three seeds, then sixty images with all their questions
        seeds = random.integers(0, 3, 3)
        questions = np.concatenate([np.flatnonzero(images == image) for image in random.integers(0, 60, 60)])
        means.append(differences[np.ix_(seeds, questions)].mean())
    plain = np.quantile(means, [0.025, 0.975])
    assert paired_interval(differences, images.astype(np.str_)) == pytest.approx(plain, abs=0.012)


@pytest.mark.parametrize("seeds", [1, 3])
def test_where_questions_on_an_image_agree_only_drawing_images_holds_what_it_says(seeds: int) -> None:
    random = np.random.default_rng(seeds)
    images = np.repeat(np.arange(80), 5).astype(np.str_)
    by_image, by_question = 0, 0
    for _ in range(200):
        hard = random.choice([-1.0, 0.0, 1.0], p=[0.1, 0.7, 0.2], size=80)  # all five questions on an image agree
        differences = np.tile(np.repeat(hard, 5), (seeds, 1))
        low, high = paired_interval(differences, images)
        by_image += low <= 0.1 <= high
        low, high = apart(differences)
        by_question += low <= 0.1 <= high
    # 190 of 200 are expected. Five times too many questions make an interval sqrt(5) too narrow, which holds
    # 2 * Phi(1.96 / 2.236) - 1 = 62 %, so 124 of 200, with a standard deviation of 7.
    assert 180 <= by_image <= 200
    assert 100 <= by_question <= 146


def test_independent_questions_cost_nothing_for_sharing_an_image() -> None:
    random = np.random.default_rng(3)
    differences = random.choice([-1.0, 0.0, 1.0], p=[0.1, 0.7, 0.2], size=(1, 2000))
    widths = [
        high - low
        for low, high in (apart(differences), paired_interval(differences, (np.arange(2000) // 5).astype(np.str_)))
    ]
    assert widths[1] == pytest.approx(widths[0], rel=0.15)


@pytest.mark.parametrize(
    ("key", "sample"),
    [
        ("000000017/3", "000000017"),  # a round of a packed sample
        ("000000017", "000000017"),
        ("shard-0.tar/coco/000139/2", "shard-0.tar/coco/000139"),
        ("coco/000139", "coco/000139"),  # a folder in somebody's tar
        ("coco/07", "coco/07"),
        ("coco/139", "coco/139"),  # no sample has so many rounds
        ("coco/cat", "coco/cat"),
        ("/3", "/3"),
    ],
)
def test_the_sample_of_a_question_is_told_by_its_key(key: str, sample: str) -> None:
    assert sample_of(key) == sample
