"""Would what was packed be packed again, and what was refused be refused? Pictures come, go and change.

Annotations and archives are known by their hashes, as part of a job's settings. A folder of pictures is known by its
name alone, so each of its pictures is read again before an earlier verdict counts: those that were packed must have the
bytes they had, unless they are gone, and for each record that was refused there must still be a reason.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, cast

from datamodules.manifest import MANIFEST
from datamodules.packing.cleaning import image_name
from datamodules.packing.examine import Examiner, Packable
from datamodules.packing.names import RefusedError
from datamodules.packing.pool import in_order
from datamodules.packing.records import Record, Records
from datamodules.packing.report import PackReport
from lit_avg.errors import UserError

_CHUNK = 64
_DIGESTS = 2**256


@dataclass(frozen=True)
class Verdicts:
    """What was found out about records before.

    Args:
        records: how many have been looked at.
        refused: how many of each source were refused: files may share a name.
        roots: how many pictures were packed from each root, by its number, and the sum of their hashes.
    """

    records: int
    refused: Counter[str]
    roots: dict[int, tuple[int, int]]


@dataclass
class Changes:
    """What is no longer as it was."""

    packable: int = 0  # records that were refused and would be no more
    changed: bool = False  # pictures have other bytes than were packed
    gone: int = 0  # pictures that were packed and are there no more, or can no longer be read
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
            raise UserError(f"pictures have changed since they were packed into {place}; {anew}")
        if self.gone:
            raise UserError(
                f"{self.packable} records that were refused can be packed now, but {self.gone} pictures that were "
                f"packed are gone: bring them back; or {anew}"
            )
        return True


@dataclass
class _Seen:
    """What a look at some records tells."""

    refused: Counter[str] = field(default_factory=Counter[str])
    pictures: Counter[int] = field(default_factory=Counter[int])
    digests: Counter[int] = field(default_factory=Counter[int])
    gone: int = 0
    reason: str = ""

    def count(self, root: int, origin: str) -> None:
        self.pictures[root] += 1
        self.digests[root] += int(origin, 16)


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
                    seen.count(outcome.root, outcome.origin)
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
            found = self.examiner.pictures.read(name)
        except RefusedError:
            seen.gone += 1
        else:
            seen.count(found.root, hashlib.sha256(found.data).hexdigest())


def changes_since(verdicts: Verdicts, records: Records, examiner: Examiner, workers: int) -> Changes:
    """Look at the records of earlier verdicts again.

    Args:
        verdicts: the earlier ones.
        records: of the same annotations.
        examiner: of the same job, its archives listed.
        workers: processes that read; 1 for this one alone.
    """
    if all(root.kind == "archive" for root in examiner.pictures.roots):
        return Changes()
    seen = _Seen()
    look = _Recheck(examiner, frozenset(verdicts.refused))
    for part in in_order(look, _chunks(islice(records, verdicts.records)), workers):
        for total, more in ((seen.refused, part.refused), (seen.pictures, part.pictures), (seen.digests, part.digests)):
            cast(Counter[Any], total).update(cast(Counter[Any], more))
        seen.gone += part.gone
        seen.reason = seen.reason or part.reason
    packable = (verdicts.refused - seen.refused).total()
    now = {root: (count, seen.digests[root] % _DIGESTS) for root, count in seen.pictures.items()}
    # whose hash is missing from the sum because its picture is gone, nobody knows
    return Changes(packable, not packable and not seen.gone and now != verdicts.roots, seen.gone, seen.reason)


def verdicts_of(report: PackReport, rejects: Iterable[bytes]) -> Verdicts:
    """Those of a packing so far; `rejects` are the lines that tell what was refused."""
    roots = {int(number): (root["pictures"], root["digest"]) for number, root in report.roots.items()}
    return Verdicts(report.records, _sources(rejects), roots)


def verdicts_in(out: Path, rejects: Path) -> Verdicts:
    """Those that a whole data set was made with."""
    path = next(path for path in (out / MANIFEST, out / "train" / MANIFEST) if path.is_file())
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    told = enumerate(manifest["sources"]["images"])
    roots = {number: (root["pictures_read"], int(root["pictures_digest"], 16)) for number, root in told}
    lines = rejects.read_bytes().splitlines() if rejects.is_file() else []
    read = {number: root for number, root in roots.items() if root[0]}
    return Verdicts(manifest["totals"]["records"], _sources(lines), read)


def _sources(rejects: Iterable[bytes]) -> Counter[str]:
    return Counter(json.loads(line)["source"] for line in rejects)


def _chunks(records: Iterator[Record]) -> Iterator[list[Record]]:
    while chunk := list(islice(records, _CHUNK)):
        yield chunk
