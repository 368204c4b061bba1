from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

WriteStudy = Callable[..., Path]


@pytest.fixture
def write_study(tmp_path: Path) -> WriteStudy:
    """Writes a study of `first`, then `second` and `third` after it, each with a config of its own."""

    def write(**changes: object) -> Path:
        for name in ("first", "second", "third"):
            config = tmp_path / f"{name}.yaml"
            if not config.exists():
                config.write_text(f"model: {name}\n")
        study: dict[str, object] = {
            "out": str(tmp_path / "out"),
            "seeds": [0],
            "runs": {
                "second": {"configs": ["second.yaml"], "after": ["first"], "test": True},
                "first": {"configs": ["first.yaml"]},
                "third": {"configs": ["third.yaml"], "after": ["first"]},
            },
            "rows": {
                "router": {"run": "second", "policy": "router"},
                "fixed 64": {"run": "second", "policy": "fixed 64"},
            },
            "columns": ["accuracy", "tokens_per_tile", "token_share"],
            "reference": "fixed 64",
        }
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(study | changes, sort_keys=False))
        return path

    return write
