"""What decides a run's result, as hashes; two runs for which it is the same are one run.

What the configs of a run come to, all files and class defaults taken together, only the training program can tell, and
that takes torch. So a sweep asks it once for each new combination of files (`lit_avg.studies.launchers.config_check`)
and keeps the answers in `checked.json` beside the runs: everyone else reads them there. Until then the files' own
content stands in.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from lit_avg.result_names import METRICS, ORACLE, MetricMeaning
from lit_avg.studies.spec.config_files import config_content
from lit_avg.studies.spec.overrides import Run
from lit_avg.utils.atomic_io import write_whole
from lit_avg.utils.hashing import changed_beneath, file_sha256, file_state, hash_of_json, known_sha256, read_sha256
from lit_avg.utils.locks import locked

CHECKED = "checked.json"

ROOT = Path(__file__).resolve().parents[3]

DEFAULTS = ROOT / "experiments" / "base.yaml"
"""What every run's config starts from."""


@dataclass(frozen=True)
class Checked:
    """What the training program said of a run's configs.

    Args:
        config: hash of what they come to.
        manifests: what names the data: the hash of each manifest or tar file that was there, of what each URL or
            command gives, and of the settings of what draws it.
        policies: what a test compares; empty for a run that compares none.
        metrics: what a test's metrics mean, by the first part of their names.
        kinds: question kinds of the data, if it can tell before it is read.
        processes: of the training, (on each node, nodes); None where it takes what it gets.
        feedback: hash of all that feedback depends on but the runs before and the levels; None for a stage that learns
            from none.
        levels: tokens per tile of the granularities.
        program: hash of the code that said so.
        states: in which state each tar file was when it had that hash; nobody has to hash it again in that.
        know_the_answer: those of the policies that look at the answers.
        flops: of the run, as far as that is known: to `fit`, to `test`, to fit from `stored` feedback, to compute that
            `feedback`.
    """

    config: str
    manifests: Mapping[str, str]
    policies: Sequence[str]
    metrics: Mapping[str, MetricMeaning]
    kinds: Sequence[str] | None
    processes: Sequence[int] | None
    feedback: str | None
    levels: Sequence[int]
    program: str = ""
    states: Mapping[str, str] = field(default_factory=dict[str, str])
    know_the_answer: Sequence[str] = field(default_factory=list[str])
    flops: Mapping[str, float] = field(default_factory=dict[str, float])

    @staticmethod
    def of(answer: Mapping[str, Any]) -> "Checked":
        """What JSON says.

        Raises:
            TypeError, AttributeError: another version has written it.
        """
        metrics = {name: MetricMeaning(**meaning) for name, meaning in answer["metrics"].items()}
        return replace(Checked(**answer), metrics=metrics)

    @property
    def digest(self) -> str:
        """What decides the result."""
        return digest([self.config, self._data])

    @property
    def store_digest(self) -> str:
        """What decides the feedback that a stage would have stored, but for its levels."""
        return digest(["feedback", self.feedback, self._data])

    def holds(self, read: bool = False) -> bool:
        """Whether the data on this machine's disk is still the same; what is no longer there is taken to be.

        Args:
            read: also large files that are new or were changed; else such a one is taken for another.
        """
        return all(
            self._as_it_was(place) or _is_still(Path(place), known, read) for place, known in self._files.items()
        )

    def settled(self) -> "Checked":
        """The same with the states that tar files are in now; all are to hold."""
        return replace(self, states=states_of(self._files))

    @property
    def may_have_changed(self) -> bool:
        """Whether only the training program can tell if the data is the same: it is elsewhere, or is drawn."""
        others = self.manifests.keys() - self._files.keys()
        return any("://" in place or place.startswith("pipe:") for place in others) or (
            bool(others) and self.program != code_hash()
        )

    @property
    def _data(self) -> list[str]:
        """What the data is, in the order of its places: training and test data that have changed places are others."""
        return [self.manifests[place] for place in sorted(self.manifests)]

    def _as_it_was(self, place: str) -> bool:
        return place in self.states and states_of([place]) == {place: self.states[place]}

    @property
    def _files(self) -> dict[str, str]:
        return {place: known for place, known in self.manifests.items() if place.startswith("/")}


def digest(content: object) -> str:
    """16 hex digits for whatever JSON can say."""
    return hash_of_json(content, 16)


def states_of(places: Iterable[str]) -> dict[str, str]:
    """The states of the tar files among some places."""
    paths = {place: Path(place) for place in places if place.startswith("/") and not place.endswith(".json")}
    return {place: file_state(path) for place, path in paths.items() if path.is_file()}


def _is_still(path: Path, known: str, read: bool) -> bool:
    """Whether a manifest and the shards beneath it, or a tar file, are as they were."""
    if not path.is_file():
        return True
    found = file_sha256(path) if read else known_sha256(path)
    if found is None or found[:16] != known:
        return False
    if path.suffix != ".json":
        return True
    try:
        hashes = {shard["name"]: shard["sha256"] for shard in json.loads(path.read_bytes())["shards"]}
        return not changed_beneath(path, hashes, read)
    except (OSError, ValueError, KeyError, TypeError):  # a shard is missing, or it is none: the program will tell
        return True


@cache
def code_hash() -> str:
    """Of the program's own source."""
    files = [path for package in ("lit_avg", "datamodules", "callbacks") for path in (ROOT / package).rglob("*.py")]
    return digest([[str(path.relative_to(ROOT)), read_sha256(path)[:16]] for path in sorted(files)])


def source_of(run: Run, content: Callable[[Path], object] = config_content) -> str:
    """Hash of what a run's files and values say, one after the other."""
    return digest([[content(config) for config in (DEFAULTS, *run.configs)], [list(pair) for pair in run.values]])


def measured(checked: Iterable[Checked]) -> dict[str, MetricMeaning]:
    """What tests measure: what every test does, and what some configs add."""
    return METRICS | {name: meaning for entry in checked for name, meaning in entry.metrics.items()}


def informed(checked: Iterable[Checked]) -> frozenset[str]:
    """The names of policies that look at the answers."""
    return frozenset({ORACLE, *(policy for entry in checked for policy in entry.know_the_answer)})


def read_checked(out: Path) -> dict[str, Checked]:
    """What is known of configs, by the hash of their source."""
    try:
        text = (out / CHECKED).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    try:
        content: dict[str, dict[str, Any]] = json.loads(text)
        return {source: Checked.of(entry) for source, entry in content.items()}
    except (ValueError, TypeError, AttributeError, KeyError):  # another version's, or cut short: asked anew
        return {}


def write_checked(out: Path, new: Mapping[str, Checked]) -> None:
    """Add to what is known."""
    with locked(out / CHECKED, wait=True):
        known = read_checked(out) | dict(new)
        text = json.dumps({source: asdict(entry) for source, entry in known.items()}, indent=1, sort_keys=True)
        write_whole(out / CHECKED, text + "\n")


@dataclass(frozen=True)
class RunContribution:
    """What a run's own configs and data contribute to its identity.

    Args:
        digest: hash of it.
        source: hash of what its files and values say, see `source_of`.
        levels: of a store of feedback, those that it has; a reader may want fewer.
    """

    digest: str
    source: str
    levels: frozenset[int] = frozenset()

    def serves(self, other: "RunContribution") -> bool:
        """Whether a run with this does for one with the other, if what comes before is the same."""
        return self.digest == other.digest and self.levels >= other.levels


def contributions(out: Path, runs: Mapping[str, Run]) -> dict[str, RunContribution]:
    """For each run what its own configs and data contribute to its identity."""
    known, content = read_checked(out), cache(config_content)
    holds = cache(lambda source: known[source].holds())

    def own(run: Run) -> RunContribution:
        source = source_of(run, content)
        if source not in known or not holds(source):
            return RunContribution(source, source)
        checked = known[source]
        if not run.feedback:
            return RunContribution(checked.digest, source)
        return RunContribution(checked.store_digest, source, frozenset(checked.levels))

    return {run.name: own(run) for run in runs.values()}


def deduplicate_runs(
    runs: Mapping[str, Run], own: Mapping[str, RunContribution]
) -> tuple[dict[str, Run], dict[str, str]]:
    """The runs without those for which an earlier one does, and for every name the run that it now means."""
    after, means, kept = dict[object, list[str]](), dict[str, str](), dict[str, Run]()
    for run in runs.values():
        branch = run.name.rpartition("/")[0]
        parents = [(runs[parent].stage, means[parent]) for parent in run.after]
        alike = after.setdefault((own[run.name].digest, tuple(parents)), [])
        equal = next((name for name in alike if own[name].serves(own[run.name])), run.name)
        alike.append(run.name)
        means[run.name] = equal
        if equal != run.name:
            kept[equal] = replace(kept[equal], test=kept[equal].test or run.test)
            continue
        elsewhere = tuple(pair for pair in parents if f"{branch}/{pair[0]}".strip("/") != pair[1])
        kept[run.name] = replace(run, after=tuple(dict.fromkeys(name for _, name in parents)), links=elsewhere)
    return kept, means
