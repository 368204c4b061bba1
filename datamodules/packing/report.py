"""What became of the records: counted while packing, kept in the journal, and told in the manifest."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from datamodules.packing.examine import Packable, Refusal

_DIGESTS = 2**256


@dataclass
class PackReport:
    """Counts over all records so far."""

    records: int = 0
    refused: Counter[str] = field(default_factory=Counter[str])  # records per reason
    left_out: Counter[str] = field(default_factory=Counter[str])  # parts of conversations, per kind
    splits: dict[str, Counter[str]] = field(default_factory=dict[str, Counter[str]])  # what each split has
    roots: dict[str, Counter[str]] = field(default_factory=dict[str, Counter[str]])  # what was read, per root's number

    def count(self, outcome: Packable | Refusal, split: str) -> None:
        """Count a record that went into `split`, or was refused."""
        self.records += 1
        if isinstance(outcome, Refusal):
            self.refused[outcome.reason.split(":")[0]] += 1
            return
        self.left_out.update(outcome.left_out)
        self.splits.setdefault(split, Counter()).update(
            samples=1,
            rounds=outcome.rounds,
            pictures=int(outcome.image is not None),
            text_only=int(outcome.image is None),
            picture_bytes=len(outcome.image or b""),
        )
        if outcome.root >= 0:
            root = self.roots.setdefault(str(outcome.root), Counter())
            root.update(pictures=1, bytes=outcome.read)
            # sums, so that they can be gone on with; they tell which images were read, and which by which names
            root["digest"] = (root["digest"] + int(outcome.origin, 16)) % _DIGESTS
            root["named"] = (root["named"] + int(outcome.named, 16)) % _DIGESTS

    @property
    def samples(self) -> int:
        """Samples in all splits."""
        return sum(split["samples"] for split in self.splits.values())

    @property
    def refused_share(self) -> float:
        """Share of the records that were refused."""
        return self.refused.total() / max(self.records, 1)

    @property
    def reasons(self) -> str:
        """Why records were refused, the commonest reason first."""
        return ", ".join(f"{count} × {reason}" for reason, count in self.refused.most_common()) or "there are none"

    def totals(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "records": self.records,
            "samples": self.samples,
            "refused": self.refused.total(),
            "reasons": dict(sorted(self.refused.items())),
            "left_out": dict(sorted(self.left_out.items())),
            "splits": {name: dict(sorted(split.items())) for name, split in sorted(self.splits.items())},
        }

    def of_roots(self, identities: Sequence[dict[str, object]]) -> list[dict[str, object]]:
        """For the manifest: each root, and what was read from it.

        Args:
            identities: of the roots, as in `ImageRoot.identity`.
        """
        roots: list[dict[str, object]] = []
        for number, identity in enumerate(identities):
            read = self.roots.get(str(number), Counter())
            counts = {"pictures_read": read["pictures"], "bytes_read": read["bytes"]}
            digests = {"pictures_digest": f"{read['digest']:064x}", "named_pictures_digest": f"{read['named']:064x}"}
            roots.append({**identity, **counts, **digests})
        return roots


def report_from_json(fields: dict[str, Any]) -> PackReport:
    """A report out of its `vars`, as JSON has left them."""
    return PackReport(
        fields["records"],
        Counter(fields["refused"]),
        Counter(fields["left_out"]),
        {name: Counter(counts) for name, counts in fields["splits"].items()},
        {name: Counter(counts) for name, counts in fields["roots"].items()},
    )
