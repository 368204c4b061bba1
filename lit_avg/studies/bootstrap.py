"""How far a difference between two rows may be chance: a paired bootstrap over seeds and questions.

Source of the scheme for two crossed factors: Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1 (2007).
"""

import numpy as np
from numpy.typing import NDArray

REPLICATES = 4000
LEVEL = 0.95


def paired_interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """The percentile interval of the mean difference.

    What is resampled: a replicate draws as many seeds as there are from the seeds, and as many questions as there are
    from the questions, both with replacement and independently; a question that is drawn twice counts twice in every
    seed that is drawn. Its value is the mean over its seeds and questions. Seeds and questions are crossed, not nested,
    because each seed is tested on the same questions: were questions drawn anew within each seed, what is hard about a
    question would average out over seeds, which it does not, and the interval would be too narrow. The two rows are
    never resampled apart: what is drawn is the difference between their answers to one question with one seed.

    Few seeds tell little about other seeds: with S of them a bootstrap sees (S - 1) / S of their variance, and with one
    seed none of it, so that the interval speaks of other questions for that very seed.

    Questions with equal differences in all seeds are interchangeable, so that drawing how many of each sort there are
    is the same as drawing them one by one, in a fraction of the time. The draws are seeded: the same differences, their
    questions in whichever order, have the same interval.

    Args:
        differences: one row minus the other, by seed and question, (S, Q); neither is 0.

    Returns:
        Its lower and upper end.
    """
    seeds, questions = differences.shape
    sorts, counts = np.unique(differences, axis=1, return_counts=True)  # (S, U), (U,)
    random = np.random.default_rng(0)
    drawn_questions = random.multinomial(questions, counts / questions, REPLICATES)  # (R, U)
    drawn_seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds), REPLICATES)  # (R, S)
    means = (drawn_seeds * (drawn_questions @ sorts.T)).sum(axis=1) / (seeds * questions)  # (R,)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return low, high
