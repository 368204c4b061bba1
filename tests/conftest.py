"""Tiny random models and batches that every test may ask for, and the golden cases."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lit_avg.batch import Batch
from lit_avg.model import AvgLlava
from tests.tiny import make_batch, tiny_model

GOLDEN = Path(__file__).parent / "data" / "golden"
MARKS = {"golden_case": "io.safetensors", "golden_losses": "rank_loss.safetensors"}
"""Which file makes a folder a case for the tests that ask for this argument."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", type=Path, help="folder of one golden case, instead of those under tests/data/golden")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    given: Path | None = metafunc.config.getoption("--golden")
    folders = sorted(GOLDEN.iterdir()) if given is None else [given.absolute()]
    if not any((folder / mark).is_file() for folder in folders for mark in MARKS.values()):
        raise pytest.UsageError(f"--golden: {given} has neither {' nor '.join(MARKS.values())}")
    for argument, mark in MARKS.items():
        if argument in metafunc.fixturenames:
            cases = [folder for folder in folders if (folder / mark).is_file()]
            metafunc.parametrize(argument, cases, ids=[case.name for case in cases], scope="module")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the slow tests to who asks for them, by `-m` or by naming a file: `make test` does."""
    if config.option.markexpr or config.args_source == pytest.Config.ArgsSource.ARGS:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]


@pytest.fixture(scope="session")
def deepspeed_operators() -> None:
    """What DeepSpeed talks by on CPUs, compiled before ranks need it: they would be taken to hang meanwhile."""
    # ninja may be where Python is, and nobody looks there; another version than before would compile all anew
    os.environ["PATH"] = f"{os.environ['PATH']}{os.pathsep}{Path(sys.executable).parent}"
    if shutil.which("c++") is None:
        pytest.skip("DeepSpeed compiles an operator for CPUs when it is first used; install g++")
    compiled = "from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder; ShareMemCommBuilder().load()"
    subprocess.run([sys.executable, "-c", compiled], check=True, timeout=600, capture_output=True)


@pytest.fixture
def model() -> AvgLlava:
    return tiny_model()


@pytest.fixture
def batch() -> Batch:
    """Three packed questions on a wide image, one on a tall padded one, one without an image."""
    return make_batch(
        [([(4, 2), (3, 1), (6, 3)], 0), ([(5, 2)], 1), ([(3, 2)], -1)], [((1, 2), (32, 64)), ((2, 1), (60, 20))]
    )


@pytest.fixture
def make() -> Callable[..., Batch]:
    return make_batch


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may look into; pytest's own are private."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell the largest difference that tests recorded under each name when they were taken down."""
    largest = dict[str, float]()
    for report in terminalreporter.getreports(""):  # set-up and take-down
        for name, value in report.user_properties:
            assert isinstance(value, float)
            largest[name] = max(largest.get(name, 0.0), value)
    for name, value in largest.items():
        terminalreporter.write_line(f"largest difference, {name}: {value:.1e}")
