"""What an evaluation step found out about each question: `Outcomes` at each granularity, or a `Prediction`.

For `Outcomes` every level is tried, so that all policies can be read off one pass and compared question by question.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lit_avg.routing.policies import Policy, PolicyInputs, choose_levels
from lit_avg.utils.errors import UserError
from lit_avg.utils.finite import check_feedback, check_scores
from lit_avg.visual_tokens.granularity import Granularities


@dataclass
class Prediction:
    """The answer to one question, and what was looked at to give it."""

    key: str
    kind: str
    prompt: Tensor  # token ids of what the user said
    answer: Tensor  # token ids, filled up as `Backbone.generate` does
    reference: str  # the answer that the data give
    granularity: int  # tokens per tile
    visual_tokens: int  # tokens of the image in the LLM's sequence
    probabilities: list[float] | None  # of the router, coarse to fine; None without one
    seconds: float  # from pixels to answer, the batch's time shared among its questions


@dataclass
class Outcomes:
    """Q questions, N granularities (coarse to fine). Tensors are on the CPU."""

    keys: list[str]  # Q
    kinds: list[str]  # Q
    granularities: Granularities  # the N levels
    correct: Tensor  # (Q, N) bool: greedy decoding at this level gives exactly the answer, its end token included
    feedback: Tensor  # (Q, N) float32: the LMM's mean log-prob per answer token, in nats
    scores: Tensor | None  # (Q, N) float32: the router's log-probabilities; None where there is no router
    visual_tokens: Tensor  # (Q, N) int64: tokens of the question's image in the LLM's sequence (0 without image)
    text_tokens: Tensor  # (Q,) int64: all other tokens of the question's own sequence
    tiles: Tensor  # (Q,) int64: tiles of its image, the global view included (0 without image)
    images: list[str] = field(default_factory=list[str])  # Q names, equal for questions on one image; or none at all

    def __len__(self) -> int:
        return len(self.keys)

    def policy_inputs(self) -> PolicyInputs:
        """What a policy may look at to choose a level for each question."""
        return PolicyInputs(self.keys, self.granularities, self.scores, self.feedback)

    def chosen_by(self, policy: Policy) -> Tensor:
        """The level that a policy chooses for each question, (Q,); see `choose_levels`."""
        return choose_levels(policy, self.policy_inputs())

    def check_finite(self) -> None:
        """Refuse outcomes that are no numbers.

        Raises:
            UserError: names the questions.
        """
        check_feedback(self.keys, self.feedback)
        if self.scores is not None:
            check_scores(self.keys, self.scores)

    def sorted(self) -> "Outcomes":
        """The same questions in the order of their keys, whichever rank or worker saw them first."""
        order = sorted(range(len(self.keys)), key=lambda question: self.keys[question])
        return self.rows(torch.tensor(order, dtype=torch.long))

    def rows(self, questions: Tensor) -> "Outcomes":
        """Some questions, given by index (Q',), in that order."""
        return Outcomes(
            keys=[self.keys[question] for question in questions.tolist()],
            kinds=[self.kinds[question] for question in questions.tolist()],
            granularities=self.granularities,
            correct=self.correct[questions],
            feedback=self.feedback[questions],
            scores=None if self.scores is None else self.scores[questions],
            visual_tokens=self.visual_tokens[questions],
            text_tokens=self.text_tokens[questions],
            tiles=self.tiles[questions],
            images=[self.images[question] for question in questions.tolist()] if self.images else [],
        )

    @staticmethod
    def merge(parts: "Sequence[Outcomes]") -> "Outcomes":
        """All parts as one; there is at least one, and all are of the same granularities.

        Raises:
            UserError: two questions have the same key, so that nobody could tell later which outcome is whose.
        """
        scores = [part.scores for part in parts if part.scores is not None]
        everything = Outcomes(
            keys=[key for part in parts for key in part.keys],
            kinds=[kind for part in parts for kind in part.kinds],
            granularities=parts[0].granularities,
            correct=torch.cat([part.correct for part in parts]),
            feedback=torch.cat([part.feedback for part in parts]),
            scores=torch.cat(scores) if scores else None,
            visual_tokens=torch.cat([part.visual_tokens for part in parts]),
            text_tokens=torch.cat([part.text_tokens for part in parts]),
            tiles=torch.cat([part.tiles for part in parts]),
            images=[image for part in parts for image in part.images],
        )
        if len(set(everything.keys)) < len(everything):
            twice = next(key for key, count in Counter(everything.keys).items() if count > 1)
            raise UserError(
                f"two questions have the key {twice}, so their outcomes cannot be told apart; give each sample a key "
                "of its own, and let a loader say in `Batch.repeated` which it shows again"
            )
        return everything


def gathered(own: list[Outcomes], ranks: int) -> Outcomes:
    """The outcomes of all ranks, each question once, in the order of their keys.

    Raises:
        UserError: on all ranks: there are none, or they are no numbers.
    """
    parts = [own]
    if ranks > 1:
        parts = [list[Outcomes]()] * ranks
        torch.distributed.all_gather_object(parts, own)
    if not (found := [outcomes for part in parts for outcomes in part]):
        raise UserError("there is no question to judge; give the data module's split some samples")
    merged = Outcomes.merge(found).sorted()
    merged.check_finite()
    return merged
