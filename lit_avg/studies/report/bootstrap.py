"""How far a difference between two rows may be chance: a paired bootstrap over seeds and images.

Source of the scheme for two crossed factors: Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1 (2007).
"""

import numpy as np
from numpy.typing import NDArray

REPLICATES = 4000
LEVEL = 0.95

FEW = 200
"""So many sorts are few in any case, since to draw how many there are of each takes no time."""

OFTEN = 4
"""More are few where there are so many images of each on average: to draw the number of a sort takes as long."""


def paired_interval(differences: NDArray[np.float64], images: NDArray[np.str_]) -> tuple[float, float]:
    """The percentile interval of the mean difference.

    What is resampled: a replicate draws as many seeds as there are from the seeds, and as many images as there are from
    the images, both with replacement and independently; an image that is drawn twice counts twice, with all questions
    on it, in every seed that is drawn. Its value is the mean over its seeds and questions. Questions on one image are a
    cluster: what makes an image hard makes all of them hard, so that five of them tell less than one on each of five
    images, and an interval that drew them one by one would be too narrow. A question without an image is its own.

    Seeds and images are crossed, not nested, because each seed is tested on the same questions: were images drawn anew
    within each seed, what is hard about an image would average out over seeds, which it does not, and the interval
    would be too narrow. The two rows are never resampled apart: what is drawn is the difference between their answers
    to one question with one seed.

    Few seeds tell little about other seeds: with S of them a bootstrap sees (S - 1) / S of their variance, and with one
    seed none of it, so that the interval speaks of other images for that very seed. Few images likewise.

    Images with as many questions and the same sum of differences in each seed are interchangeable. Where there are few
    such sorts, how many there are of each is drawn, which is the same as drawing images one by one, in a fraction of
    the time. The draws are seeded: the same differences, their questions in whichever order, have the same interval.

    Args:
        differences: one row minus the other, by seed and question, (S, Q); neither is 0.
        images: what each question is asked about, by whatever name, (Q,).

    Returns:
        Its lower and upper end.
    """
    seeds = len(differences)
    _, image_of_question, questions = np.unique(images, return_inverse=True, return_counts=True)  # (Q,), (I,)
    totals = [np.bincount(image_of_question, row) for row in differences]  # S times (I,)
    sorts, counts = np.unique(
        np.array([*totals, questions], np.float64), axis=1, return_counts=True
    )  # (S + 1, U), (U,)
    random = np.random.default_rng(0)
    sums = _drawn_sums(sorts, counts, random)  # (R, S + 1): the differences of each seed, and how many questions
    drawn_seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds), REPLICATES)  # (R, S)
    means = (drawn_seeds * sums[:, :-1]).sum(axis=1) / (seeds * sums[:, -1])  # (R,)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return low, high


def _drawn_sums(
    sorts: NDArray[np.float64], counts: NDArray[np.int64], random: np.random.Generator
) -> NDArray[np.float64]:
    """What each replicate's images sum up to, (R, S + 1), given their sorts (S + 1, U) and the number of each."""
    images = int(counts.sum())
    if len(counts) <= max(FEW, images // OFTEN):
        return random.multinomial(images, counts / images, REPLICATES) @ sorts.T
    sort_of_image = np.repeat(np.arange(len(counts)), counts)
    sums = np.empty((REPLICATES, len(sorts)))
    for replicate in sums:
        drawn = sort_of_image[random.integers(images, size=images)]
        replicate[:] = sorts @ np.bincount(drawn, minlength=len(counts))
    return sums
