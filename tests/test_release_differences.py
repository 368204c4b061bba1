"""docs/release-differences.md says what the code does."""

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from datamodules.encoding.tiling import best_plane
from lit_avg.semantics import PRESETS, Unpad
from lit_avg.visual_tokens.anyres import VisualLayout
from lit_avg.visual_tokens.granularity import Granularities
from tests.tiny import tiny_model

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "release-differences.md").read_text()
ABLATIONS = sorted((ROOT / "experiments" / "ablations" / "release").glob("*.yaml"))
PLANES = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]
"""LLaVA-NeXT's, height first."""

ROWS = re.findall(r"^\| (\d+)x(\d+) \| ([a-z ]+) \|((?: \d+ \|){5})$", TEXT, re.MULTILINE)


def test_the_documented_token_counts_are_those_the_model_would_be_shown() -> None:
    assert [(row[0], row[1], row[2]) for row in ROWS] == [
        (width, height, unpad)
        for width, height in [("672", "672"), ("640", "480"), ("480", "640")]
        for unpad in get_args(Unpad)
    ]
    for width, height, unpad, counts in ROWS:
        size = int(height), int(width)
        plane = best_plane(size, PLANES)
        layout = VisualLayout(Granularities(), unpad)
        grid = plane[0] // 336, plane[1] // 336
        counted = [layout.count(grid, size, level) for level in range(5)]
        assert counted == [int(count) for count in counts.split("|")[:-1]]


@pytest.mark.parametrize("point", vars(PRESETS["paper"]))
def test_every_point_is_documented(point: str) -> None:
    assert f"`{point}`" in TEXT
    value = vars(PRESETS["release"])[point]
    if isinstance(value, str):
        assert f"`{value}`: " in TEXT or f"`{value}` in" in TEXT


def test_every_point_but_the_margin_has_an_ablation_that_takes_the_releases_side_in_it_alone() -> None:
    said = [yaml.safe_load(path.read_text())["model"]["init_args"]["model"]["init_args"] for path in ABLATIONS]
    alone = [one["semantics"] for one in said if one["semantics"] != "release"]
    release = {name: value for name, value in vars(PRESETS["release"]).items() if name != "margin"}
    assert sorted(alone, key=str) == sorted([{name: value} for name, value in release.items()], key=str)
    assert len(alone) == len(ABLATIONS) - 1
    for path in ABLATIONS:
        assert path.stem == "all" or f"`{path.stem}`" in TEXT


def test_an_unpadded_square_loses_half_its_rows_at_288_by_the_token_grid() -> None:
    # 2x2 tiles of 24 rows and 12 columns: a plane of 48 x 24, of which a square image is given 24 x 24.
    model = tiny_model(semantics="release")
    assert model.layout.unpad == "token grid"
    sequence = VisualLayout(Granularities(), "token grid").sequence((2, 2), (672, 672), 3)
    assert len(sequence) == 288 + 24 * (24 + 1)
