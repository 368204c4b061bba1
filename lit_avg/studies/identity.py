"""What decides a run's result, as hashes; two runs for which it is the same are one run.

What the configs of a run come to, all files and class defaults taken together, only the training program can tell, and
that takes torch. So a sweep asks it once for each new combination of files (`lit_avg.studies.checking`) and keeps the
answers in `checked.json` beside the runs: everyone else reads them there. Until then the files' own content stands in.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from lit_avg.studies.files import write_whole
from lit_avg.studies.locks import locked
from lit_avg.studies.sources import config_content
from lit_avg.studies.variants import Run

CHECKED = "checked.json"

ROOT = Path(__file__).resolve().parents[2]

DEFAULTS = ROOT / "experiments" / "base.yaml"
"""What every run's config starts from."""


@dataclass(frozen=True)
class Checked:
    """What the training program said of a run's configs.

    Args:
        config: hash of what they come to.
        manifests: hash of each manifest of the data that was there.
        policies: what a test compares; empty for a run that compares none.
        metrics: first parts of the names of a test's metrics.
        kinds: question kinds of the data, if it can tell before it is read.
        processes: of the training, (on each node, nodes); None where it takes what it gets.
    """

    config: str
    manifests: Mapping[str, str]
    policies: Sequence[str]
    metrics: Sequence[str]
    kinds: Sequence[str] | None
    processes: Sequence[int] | None

    @property
    def digest(self) -> str:
        """What decides the result."""
        return digest([self.config, sorted(self.manifests.values())])

    @property
    def holds(self) -> bool:
        """Whether the data is still the same."""
        return all(file_hash(path) == known for path, known in self.manifests.items())


def digest(content: object) -> str:
    """16 hex digits for whatever JSON can say."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def file_hash(path: str | Path) -> str | None:
    """Of a file's bytes; None where there is none."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16] if Path(path).is_file() else None


def code_hash() -> str:
    """Of the program's own source."""
    files = [path for package in ("lit_avg", "datamodules", "callbacks") for path in (ROOT / package).rglob("*.py")]
    return digest([[str(path.relative_to(ROOT)), file_hash(path)] for path in sorted(files)])


def source_of(run: Run, content: Callable[[Path], object] = config_content) -> str:
    """Hash of what a run's files and values say, one after the other."""
    return digest([[content(config) for config in (DEFAULTS, *run.configs)], [list(pair) for pair in run.values]])


def read_checked(out: Path) -> dict[str, Checked]:
    """What is known of configs, by the hash of their source."""
    try:
        content: dict[str, dict[str, Any]] = json.loads((out / CHECKED).read_text())
        return {source: Checked(**entry) for source, entry in content.items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError):  # another version's, or cut short: asked anew
        return {}


def write_checked(out: Path, new: Mapping[str, Checked]) -> None:
    """Add to what is known."""
    with locked(out / CHECKED, wait=True):
        known = read_checked(out) | dict(new)
        text = json.dumps({source: asdict(entry) for source, entry in known.items()}, indent=1, sort_keys=True)
        write_whole(out / CHECKED, text + "\n")


def digests(out: Path, runs: Mapping[str, Run]) -> dict[str, str]:
    """For each run what its own configs and data contribute to its identity."""
    known, content = read_checked(out), cache(config_content)
    found = dict[str, str]()
    holds = cache(lambda source: known[source].holds)
    for run in runs.values():
        source = source_of(run, content)
        found[run.name] = known[source].digest if source in known and holds(source) else source
    return found


def unified(runs: Mapping[str, Run], digests: Mapping[str, str]) -> tuple[dict[str, Run], dict[str, str]]:
    """The runs without those that equal an earlier one, and for every name the run that it now means."""
    first, means, kept = dict[object, str](), dict[str, str](), dict[str, Run]()
    for run in runs.values():
        branch = run.name.rpartition("/")[0]
        parents = [(runs[parent].stage, means[parent]) for parent in run.after]
        equal = first.setdefault((digests[run.name], tuple(parents)), run.name)
        means[run.name] = equal
        if equal != run.name:
            kept[equal] = replace(kept[equal], test=kept[equal].test or run.test)
            continue
        elsewhere = tuple(pair for pair in parents if f"{branch}/{pair[0]}".strip("/") != pair[1])
        kept[run.name] = replace(run, after=tuple(dict.fromkeys(name for _, name in parents)), links=elsewhere)
    return kept, means
