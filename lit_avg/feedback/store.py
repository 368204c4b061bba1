"""The feedback store: what the LMM thinks of each granularity, computed once and read by every router.

A folder with `manifest.json`, which says what the feedback was computed with and on, and a folder of parts for each
split (`lit_avg.feedback.part_files`). Any number of processes may fill it: a part is computed by whoever holds the lock
on its `.lock` file, and the kernel takes a dead process's lock away.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from lit_avg.feedback.fingerprint import GRANULARITIES, Identity, check_identity
from lit_avg.feedback.lmm_feedback import Feedback
from lit_avg.feedback.part_files import StoredFeedback, find_part, part_name, read_part, write_part
from lit_avg.utils.atomic_io import write_whole
from lit_avg.utils.errors import UserError
from lit_avg.utils.finite import check_feedback
from lit_avg.utils.hashing import hash_of_json
from lit_avg.utils.json_files import read_entries
from lit_avg.utils.locks import BusyError, file_lock

MANIFEST = "manifest.json"

FORMAT = 1
"""Version of the manifest."""


@dataclass(frozen=True)
class StoredSplit:
    """A split as the manifest describes it."""

    data: str  # names the samples
    samples: int
    per_part: int  # samples, the last part may have fewer

    @property
    def parts(self) -> range:
        """The numbers of its parts."""
        return range(-(-self.samples // self.per_part))

    def stretch(self, part: int) -> tuple[int, int]:
        """The samples of a part: from the first to before the second."""
        return part * self.per_part, min(self.samples, (part + 1) * self.per_part)


class FeedbackStore:
    """A feedback store that is there.

    Args:
        folder: of the store.

    Raises:
        UserError: there is no manifest, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / MANIFEST
        if not path.is_file():
            raise UserError(f"there is no feedback store in {folder}; make one with `lit-avg feedback --out {folder}`")
        fields = read_entries(path, "delete the store and make it anew", ("identity", "splits"))
        if fields.get("format") != FORMAT or fields.get("sha256") != _digest(fields):
            raise UserError(f"{path} is damaged, or of another format than {FORMAT}; delete the store and make it anew")
        self.identity: Identity = _texts(fields["identity"])
        splits = fields["splits"]
        assert isinstance(splits, dict)
        self.splits: dict[str, StoredSplit] = {str(name): StoredSplit(**split) for name, split in splits.items()}

    @property
    def granularities(self) -> list[int]:
        """Tokens per tile of the levels, coarse to fine."""
        return [int(tokens) for tokens in self.identity[GRANULARITIES].split()]

    def missing(self, split: str) -> list[int]:
        """The parts of a split that are not there yet."""
        return [part for part in self.splits[split].parts if find_part(self.folder / split, part) is None]

    def fill(self, split: str, compute: Callable[[int, int], StoredFeedback]) -> int:
        """Make the parts that are missing, together with other processes; returns when none is.

        Args:
            split: of the data.
            compute: gives the feedback of the samples from the first number to before the second.

        Returns:
            How many parts this process made.
        """
        made = 0
        for wait in (False, True):  # first what nobody works on, then what its worker may have left when it died
            for part in self.missing(split):
                lock = self.folder / split / f"{part_name(part)}.lock"
                with suppress(BusyError), file_lock(lock, wait):
                    if find_part(self.folder / split, part) is None:
                        write_part(self.folder / split, part, compute(*self.splits[split].stretch(part)))
                        made += 1
                    lock.unlink(missing_ok=True)  # who has it open by now will find the part
        return made

    def read(self, split: str) -> StoredFeedback:
        """All feedback of a split, every part checked.

        Raises:
            UserError: there is no such split, it is not complete, a part is damaged, a question is there twice or
                feedback is not finite.
        """
        if split not in self.splits:
            raise UserError(
                f"{self.folder} has feedback of {', '.join(self.splits)}, but not of {split}; "
                f"add it with `lit-avg feedback --splits {split} --out {self.folder}`"
            )
        if missing := self.missing(split):
            raise UserError(
                f"{self.folder} is not complete: {len(missing)} of {len(self.splits[split].parts)} parts of {split} "
                "are missing; run the same `lit-avg feedback` again, which makes them"
            )
        found = [find_part(self.folder / split, part) for part in self.splits[split].parts]
        everything = StoredFeedback.merge([read_part(path) for path in found if path is not None])
        if len(set(everything.keys)) < len(everything):
            raise UserError(f"{self.folder} has a question of {split} twice; delete the store and make it anew")
        check_feedback(everything.keys, everything.log_prob)
        return everything


def open_store(folder: Path, identity: Identity, splits: Mapping[str, StoredSplit]) -> FeedbackStore:
    """The store in a folder to write these splits to, made if it is not there.

    Raises:
        UserError: it holds feedback of another origin or of other data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / "manifest.lock"):
        known = dict[str, StoredSplit]()
        if (folder / MANIFEST).is_file():
            store = FeedbackStore(folder)
            check_identity(store.identity, identity, str(folder))
            check_identity(identity, store.identity, "this config")  # neither may have levels that the other lacks
            for name in {*splits} & {*store.splits}:
                check_data(store, name, splits[name].data)
            known = store.splits
        if not splits.keys() <= known.keys():
            _write_manifest(folder, identity, {**splits, **known})
    for name in splits:
        (folder / name).mkdir(exist_ok=True)
    return FeedbackStore(folder)


def check_data(store: FeedbackStore, split: str, data: str | None) -> None:
    """Refuse a store of other data.

    Raises:
        UserError: names both.
    """
    if data != store.splits[split].data:
        raise UserError(
            f"{store.folder} holds feedback on other data: {split} is {store.splits[split].data[:16]} there and "
            f"{(data or 'missing')[:16]} here; compute it anew with `lit-avg feedback`, into another folder"
        )


class FeedbackReader:
    """Looks up the feedback of a batch's questions at some of the stored levels.

    Args:
        stored: of a split.
        stored_levels: tokens per tile of its levels.
        wanted_levels: those to give, coarse to fine.
    """

    def __init__(self, stored: StoredFeedback, stored_levels: Sequence[int], wanted_levels: Sequence[int]) -> None:
        self.place = {key: place for place, key in enumerate(stored.keys)}
        levels = [list(stored_levels).index(tokens) for tokens in wanted_levels]
        self.log_prob, self.correct = stored.log_prob[:, levels], stored.correct[:, levels]

    def __call__(self, keys: Sequence[str], device: torch.device) -> Feedback:
        """Feedback (Q, N) of some questions.

        Raises:
            UserError: there is none of one of them.
        """
        if unknown := [key for key in keys if key not in self.place]:
            raise UserError(f"the feedback store has nothing on question {unknown[0]}; it was made of other data")
        places = torch.tensor([self.place[key] for key in keys], dtype=torch.long)
        return Feedback(self.log_prob[places].to(device), self.correct[places].to(device))


def _write_manifest(folder: Path, identity: Identity, splits: Mapping[str, StoredSplit]) -> None:
    described = {name: vars(split) for name, split in splits.items()}
    fields = {"format": FORMAT, "identity": dict(identity), "splits": described}
    text = json.dumps({**fields, "sha256": _digest(fields)}, indent=1)
    write_whole(folder / MANIFEST, text, partial=folder / f"{MANIFEST}.partial")


def _digest(fields: Mapping[str, object]) -> str:
    content = {name: value for name, value in fields.items() if name != "sha256"}
    return hash_of_json(content)


def _texts(mapping: object) -> dict[str, str]:
    assert isinstance(mapping, dict)
    return {str(name): str(value) for name, value in mapping.items()}
