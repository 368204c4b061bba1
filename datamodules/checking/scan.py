"""One shard, read from front to back: is it as it was packed, and what is in it?"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path

from datamodules.checking.measure import MeasureSettings
from datamodules.checking.statistics import Statistics
from datamodules.encoding.conversation import ConversationRenderer
from datamodules.encoding.image_decoding import image_size
from datamodules.encoding.tiling import best_plane
from datamodules.shards.manifest import Shard
from datamodules.shards.reader import sample_key
from datamodules.shards.sample import Sample, parse_sample
from datamodules.shards.tar_index import read_index, read_place
from lit_avg.inputs import words_of
from lit_avg.utils.errors import UserError
from lit_avg.utils.hashing import read_sha256
from lit_avg.visual_tokens.anyres import VisualLayout
from lit_avg.visual_tokens.granularity import Granularities

NAMED = 10
"""Problems of a shard that are told one by one."""


@dataclass(frozen=True)
class ShardToScan:
    """A shard, and the running number of its first sample."""

    split: str
    folder: Path
    shard: Shard
    first: int


@dataclass
class Findings:
    """What a shard turned out to be."""

    task: ShardToScan
    statistics: Statistics
    problems: list[str] = field(default_factory=list[str])


@dataclass(frozen=True)
class Scanner:
    """Reads shards, in whichever process.

    Args:
        settings: what lengths are measured with.
        renderer: of conversations, cutting nothing; None to count words.
    """

    settings: MeasureSettings
    renderer: ConversationRenderer | None

    def __call__(self, task: ShardToScan) -> Findings:
        """Verify a shard's hash, and count what is in it if that is right."""
        path = task.folder / task.shard.name
        findings = Findings(task, Statistics(len(self.settings.granularities)))
        expected_hash = task.shard.sha256
        if (found := read_sha256(path)) != expected_hash:
            findings.problems.append(
                f"{path}: changed since it was packed (sha256 {found[:12]}…, but {expected_hash[:12]}… in the manifest)"
            )
            return findings
        keys = [sample_key(number) for number in range(task.first, task.first + task.shard.samples)]
        for expected, (key, members) in _beside_keys(keys, path):
            try:
                if key != expected:
                    raise UserError(f"sample {key} stands where {expected} should be")
                self._count(_sample(key, members), findings.statistics)
            except UserError as error:
                if len(findings.problems) < NAMED:
                    findings.problems.append(f"{path}: {error}")
        return findings

    def _count(self, sample: Sample, statistics: Statistics) -> None:
        statistics.samples += 1
        statistics.text_only += sample.image is None
        statistics.rounds.add(len(sample.rounds))
        if sample.image is not None:
            size = image_size(sample.image, f"sample {sample.key}")
            grid = self._grid(size)
            levels = range(len(self._layout.granularities))
            statistics.add_image(size, grid, [self._layout.count(grid, size, level) for level in levels])
        if self.renderer is None:
            lengths = [len(words_of(text).split()) for _, text in sample.turns]
            statistics.lengths.add(sum(lengths))
            for length in lengths[1 + len(sample.system) :: 2]:
                statistics.answers.add(length)
        else:
            self._count_tokens(self.renderer, sample, statistics)

    def _count_tokens(self, renderer: ConversationRenderer, sample: Sample, statistics: Statistics) -> None:
        rendering = renderer(sample.turns, sample.image is not None)
        length = len(rendering.input_ids)
        spans = [(is_answer, len(list(run))) for is_answer, run in groupby(rendering.answer.tolist())]
        answers = [tokens for is_answer, tokens in spans if is_answer]
        for tokens in answers:
            statistics.answers.add(tokens)
        statistics.lengths.add(length)
        statistics.too_long += length > self.settings.max_length
        before = spans[0][1] if spans and not spans[0][0] else 0
        statistics.no_room += before + sum(answers[:1]) > self.settings.max_length

    def _grid(self, size: tuple[int, int]) -> tuple[int, int]:
        planes, side = self.settings.grid_pinpoints, self.settings.tile_size
        if not planes:
            return 0, 0
        height, width = best_plane(size, planes)
        return height // side, width // side

    @cached_property
    def _layout(self) -> VisualLayout:
        return VisualLayout(Granularities(self.settings.granularities, self.settings.step))


def _beside_keys(expected: list[str], path: Path) -> Iterator[tuple[str | None, tuple[str, dict[str, bytes]]]]:
    """Samples of a shard as they lie, each beside the key that should be there; None beyond the last."""
    missing = iter(expected)
    for key, members in _samples(path):
        yield next(missing, None), (key, members)
    for key in missing:
        yield key, ("nothing", {})


def _samples(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    with path.open("rb") as shard:
        for key, places in read_index(shard, str(path)):
            members = {name: read_place(shard, place) for name, place in places.items() if isinstance(place, tuple)}
            yield key, members


def _sample(key: str, members: dict[str, bytes]) -> Sample:
    parts = dict(members)
    record = parts.pop("json", None)
    if record is None or len(parts) > 1:
        raise UserError(f"sample {key} has {sorted(members)}, not .json and at most one image")
    return parse_sample(key, record, next(iter(parts.values()), None))
