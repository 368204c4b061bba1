"""Would what was packed be packed again, and what was refused be refused? Images come, go and change.

Annotations and archives are known by their hashes, as part of a job's settings. A folder of images is known by its
name alone, so each of its images is read again before an earlier verdict counts: those that were packed must have the
bytes they had under their names, unless they are gone, and for each record that was refused there must still be a
reason.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

from datamodules.packing.cleaning import image_name
from datamodules.packing.examine import Examiner, Packable, under_name
from datamodules.packing.names import RefusedError
from datamodules.packing.records import Record, Records
from datamodules.packing.report import PackReport
from datamodules.shards.manifest import MANIFEST
from lit_avg.utils.errors import UserError
from lit_avg.utils.hashing import hash_of
from lit_avg.utils.process_pool import in_order

_CHUNK = 64
_DIGESTS = 2**256


class FromRoot(NamedTuple):
    """The images that were packed from a root: how many, and sums of hashes."""

    images: int
    digest: int  # of their contents
    named: int | None  # of their contents and names; None where an earlier version has packed


@dataclass(frozen=True)
class Verdicts:
    """What was found out about records before.

    Args:
        records: how many have been looked at.
        refused: how many of each source were refused: files may share a name.
        roots: what was packed from each root, by its number.
    """

    records: int
    refused: Counter[str]
    roots: "dict[int, FromRoot]"


@dataclass
class Changes:
    """What is no longer as it was."""

    packable: int = 0  # records that were refused and would be no more
    changed: bool = False  # images have other bytes than were packed
    gone: int = 0  # images that were packed and are there no more, or can no longer be read
    refused: str = ""  # why a record that was packed would be refused now

    def ask_for_anew(self, place: Path, overwrite: bool) -> bool:
        """Whether all has to be packed anew.

        Args:
            place: where it was packed.
            overwrite: it may be, whatever is lost.

        Raises:
            UserError: it may not be without being told to.
        """
        anew = f"pack anew with --overwrite, which replaces {place}, or choose another --out"
        if overwrite or not (self.packable or self.changed or self.refused):
            return bool(self.packable or self.changed or self.refused)
        if self.refused:
            raise UserError(f"{place} has records that are refused by now ({self.refused}); {anew}")
        if self.changed:
            raise UserError(f"images have changed since they were packed into {place}; {anew}")
        if self.gone:
            raise UserError(
                f"{self.packable} records that were refused can be packed now, but {self.gone} images that were "
                f"packed are gone: bring them back; or {anew}"
            )
        return True


@dataclass
class _Seen:
    """What a look at some records tells."""

    refused: Counter[str] = field(default_factory=Counter[str])
    images: Counter[int] = field(default_factory=Counter[int])
    digests: Counter[int] = field(default_factory=Counter[int])
    named: Counter[int] = field(default_factory=Counter[int])
    gone: int = 0
    reason: str = ""

    def count(self, root: int, origin: str, named: str) -> None:
        self.images[root] += 1
        self.digests[root] += int(origin, 16)
        self.named[root] += int(named, 16)

    def add(self, part: "_Seen") -> None:
        self.refused.update(part.refused)
        self.images.update(part.images)
        self.digests.update(part.digests)
        self.named.update(part.named)
        self.gone += part.gone
        self.reason = self.reason or part.reason

    def differs_from(self, roots: Mapping[int, FromRoot]) -> bool:
        now = {
            root: FromRoot(count, self.digests[root] % _DIGESTS, self.named[root] % _DIGESTS)
            for root, count in self.images.items()
        }
        unnamed = {root for root, packed in roots.items() if packed.named is None}
        return {root: read._replace(named=None) if root in unnamed else read for root, read in now.items()} != roots


@dataclass(frozen=True)
class _Recheck:
    """Looks at records again, in whichever process."""

    examiner: Examiner
    refused: frozenset[str]

    def __call__(self, records: Sequence[Record]) -> _Seen:
        seen = _Seen()
        for record in records:
            if record.source in self.refused:
                (outcome,) = self.examiner([record])
                if not isinstance(outcome, Packable):
                    seen.refused[record.source] += 1
                elif outcome.root >= 0:
                    seen.count(outcome.root, outcome.origin, outcome.named)
            elif isinstance(record.value, dict):
                self._look(cast(dict[str, Any], record.value), seen)
        return seen

    def _look(self, fields: dict[str, Any], seen: _Seen) -> None:
        """At a record that was packed."""
        try:
            name = image_name(fields)
        except RefusedError as refusal:  # by a rule that is younger
            seen.reason = seen.reason or str(refusal)
            return
        if name is None:
            return
        try:
            image_file = self.examiner.images.read(name)
        except RefusedError:
            seen.gone += 1
        else:
            origin = hash_of(image_file.data)
            seen.count(image_file.root, origin, under_name(name, origin))


def changes_since(verdicts: Verdicts, records: Records, examiner: Examiner, workers: int) -> Changes:
    """Look at the records of earlier verdicts again.

    Args:
        verdicts: the earlier ones.
        records: of the same annotations.
        examiner: of the same job, its archives listed.
        workers: processes that read; 1 for this one alone.
    """
    if all(root.kind == "archive" for root in examiner.images.roots):
        return Changes()
    seen = _Seen()
    look = _Recheck(examiner, frozenset(verdicts.refused))
    for part in in_order(look, _chunks(islice(records, verdicts.records)), workers):
        seen.add(part)
    packable = (verdicts.refused - seen.refused).total()
    # whose hash is missing from the sum because its image is gone, nobody knows
    changed = not packable and not seen.gone and seen.differs_from(verdicts.roots)
    return Changes(packable, changed, seen.gone, seen.reason)


def verdicts_of(report: PackReport, rejects: Iterable[bytes]) -> Verdicts:
    """Those of a packing so far; `rejects` are the lines that tell what was refused."""
    by_number = report.roots.items()
    roots = {int(number): FromRoot(root["pictures"], root["digest"], root["named"]) for number, root in by_number}
    return Verdicts(report.records, _sources(rejects), roots)


def verdicts_in(out: Path, rejects: Path) -> Verdicts:
    """Those that a whole data set was made with."""
    path = next(path for path in (out / MANIFEST, out / "train" / MANIFEST) if path.is_file())
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    roots = {number: _from_root(root) for number, root in enumerate(manifest["sources"]["images"])}
    lines = rejects.read_bytes().splitlines() if rejects.is_file() else []
    read = {number: root for number, root in roots.items() if root.images}
    return Verdicts(manifest["totals"]["records"], _sources(lines), read)


def _from_root(entry: Mapping[str, Any]) -> FromRoot:
    named = entry.get("named_pictures_digest")
    digest = int(entry["pictures_digest"], 16)
    return FromRoot(entry["pictures_read"], digest, None if named is None else int(named, 16))


def _sources(rejects: Iterable[bytes]) -> Counter[str]:
    return Counter(json.loads(line)["source"] for line in rejects)


def _chunks(records: Iterator[Record]) -> Iterator[list[Record]]:
    while chunk := list(islice(records, _CHUNK)):
        yield chunk
