"""A part of a feedback store: one safetensors file with the feedback of some hundred consecutive samples.

Its name ends in the first 16 hex digits of its own SHA-256, `part-00017-0123456789abcdef.safetensors`: one rename makes
a part both whole and checkable. Tensors: `log_prob` (Q, N) float32, `correct` (Q, N) uint8, `answer_tokens` (Q,) and
`visual_tokens` (Q, N) int32; the metadata has keys, question kinds and sources as JSON lists.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lit_avg.utils.atomic_io import write_whole
from lit_avg.utils.errors import UserError
from lit_avg.utils.hashing import hash_of

SUFFIX = ".safetensors"

_DIGITS = 16
"""Of its hash that a name has."""


@dataclass
class StoredFeedback:
    """Q questions at N granularities, coarse to fine."""

    keys: list[str]
    kinds: list[str]
    sources: list[str]  # what each sample was taken from, "" where nobody said
    log_prob: Tensor  # (Q, N) float32
    correct: Tensor  # (Q, N) bool
    answer_tokens: Tensor  # (Q,) int32
    visual_tokens: Tensor  # (Q, N) int32, 0 without an image

    def __len__(self) -> int:
        return len(self.keys)

    def rows(self, wanted: Tensor) -> "StoredFeedback":
        """The questions that a mask (Q,) marks."""
        places = wanted.nonzero().flatten().tolist()
        return StoredFeedback(
            keys=[self.keys[place] for place in places],
            kinds=[self.kinds[place] for place in places],
            sources=[self.sources[place] for place in places],
            log_prob=self.log_prob[wanted],
            correct=self.correct[wanted],
            answer_tokens=self.answer_tokens[wanted],
            visual_tokens=self.visual_tokens[wanted],
        )

    @staticmethod
    def merge(parts: "Sequence[StoredFeedback]") -> "StoredFeedback":
        """All parts behind one another."""
        return StoredFeedback(
            keys=[key for part in parts for key in part.keys],
            kinds=[kind for part in parts for kind in part.kinds],
            sources=[source for part in parts for source in part.sources],
            log_prob=torch.cat([part.log_prob for part in parts]),
            correct=torch.cat([part.correct for part in parts]),
            answer_tokens=torch.cat([part.answer_tokens for part in parts]),
            visual_tokens=torch.cat([part.visual_tokens for part in parts]),
        )


def part_name(part: int) -> str:
    """How the name of a part's file begins."""
    return f"part-{part:05d}"


def find_part(folder: Path, part: int) -> Path | None:
    """The file of a part, if it is there.

    Raises:
        UserError: there are two, of different content.
    """
    found = sorted(folder.glob(f"{part_name(part)}-*{SUFFIX}"))
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise UserError(f"{folder} has {names}, of which only one can be right; delete both and run the command again")
    return found[0] if found else None


def write_part(folder: Path, part: int, content: StoredFeedback) -> Path:
    """Write a part under its final name in one step; the caller holds its lock."""
    tensors = {
        "log_prob": content.log_prob.contiguous(),
        "correct": content.correct.to(torch.uint8).contiguous(),
        "answer_tokens": content.answer_tokens.contiguous(),
        "visual_tokens": content.visual_tokens.contiguous(),
    }
    lists = {"keys": content.keys, "kinds": content.kinds, "sources": content.sources}
    data = save(tensors, {name: json.dumps(values) for name, values in lists.items()})
    path = folder / f"{part_name(part)}-{hash_of(data, _DIGITS)}{SUFFIX}"
    write_whole(path, data, partial=folder / f"{part_name(part)}.partial")
    return path


def read_part(path: Path) -> StoredFeedback:
    """Read a part back.

    Raises:
        UserError: a byte is not what it was.
    """
    data = path.read_bytes()
    if hash_of(data, _DIGITS) != path.stem.rpartition("-")[2]:
        raise UserError(f"{path} is damaged; delete it and run `lit-avg feedback` again, which makes what is missing")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            keys, kinds, sources = (json.loads(metadata[name]) for name in ("keys", "kinds", "sources"))
            return StoredFeedback(
                keys,
                kinds,
                sources,
                log_prob=file.get_tensor("log_prob"),
                correct=file.get_tensor("correct").bool(),
                answer_tokens=file.get_tensor("answer_tokens"),
                visual_tokens=file.get_tensor("visual_tokens"),
            )
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path} is no part of a feedback store: {error}") from error
