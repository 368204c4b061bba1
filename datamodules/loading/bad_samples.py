"""Samples that turn out to be no good in the middle of training: replaced, counted, named in a file.

Which sample stands in follows from the data alone, so a run that is resumed or spread over other ranks replaces in the
same way, and no rank has fewer batches than another.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from lit_avg.utils.atomic_io import write_whole
from lit_avg.utils.errors import UserError

BAD_SAMPLES = "bad_samples"
"""Beginning of the names of the files in a run's directory, one for each rank: `bad_samples.rank0.jsonl`."""


@dataclass(frozen=True)
class BadSample:
    """One that was not used."""

    source: str  # name of its data set
    index: int  # which of the samples that are trained on, counted through all sources
    reason: str  # names the sample by its key
    replaced_by: int


class BadSampleLog:
    """Names and counts the samples that were not used, and stops a run that has too many.

    The count is one of different samples over all ranks: it is read from their files, so that it survives a restart.

    Args:
        folder: the run's directory; None to keep no files.
        rank: which of the ranks this is.
        ranks: how many there are.
        allowed: so many may be bad; one more is too many.
    """

    def __init__(self, folder: Path | None, rank: int, ranks: int, allowed: int) -> None:
        self.folder = folder
        self.path = folder / f"{BAD_SAMPLES}.rank{rank}.jsonl" if folder else None
        self.rank, self.ranks = rank, ranks
        self.allowed = allowed
        self.known: set[int] = set()

    def start_anew(self) -> None:
        """Forget what an earlier run in this directory had to say."""
        self.known = set()
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        if self.folder is not None and self.rank == 0:
            for path in self.folder.glob(f"{BAD_SAMPLES}.rank*.jsonl"):
                if int(path.name.split(".")[1].removeprefix("rank")) >= self.ranks:
                    path.unlink()

    def go_on(self) -> None:
        """Remember what this run wrote before it was stopped; a line that a kill cut short will be written again."""
        if self.path is not None and self.path.is_file():
            whole, _, _ = self.path.read_text(encoding="utf-8").rpartition("\n")
            write_whole(self.path, whole + "\n" if whole else "")
        self.known |= self._read()

    def note(self, bad: list[BadSample]) -> None:
        """Write down those that are new.

        Raises:
            UserError: there are too many by now.
        """
        new = [sample for sample in bad if sample.index not in self.known]
        if not new:
            return
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(sample)) + "\n" for sample in new)
        self.known |= {sample.index for sample in new} | self._read()
        if len(self.known) > self.allowed:
            told = f" (all are named in {self.path.parent})" if self.path else ""
            raise UserError(
                f"{len(self.known)} samples are no good, and {self.allowed} are allowed{told}; the last: "
                f"{new[-1].reason}. Mend the data, or raise max_bad_share"
            )

    def _read(self) -> set[int]:
        """What all ranks have written; a line that one of them is just writing can wait."""
        files = sorted(self.folder.glob(f"{BAD_SAMPLES}.rank*.jsonl")) if self.folder else []
        lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines(keepends=True)]
        return {json.loads(line)["index"] for line in lines if line.endswith("}\n")}
