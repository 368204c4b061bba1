"""Tiny random models and batches that every test may ask for."""

from collections.abc import Callable

import pytest

from lit_avg.batch import Batch
from lit_avg.model import AvgLlava
from tests.tiny import make_batch, tiny_model


@pytest.fixture
def model() -> AvgLlava:
    return tiny_model()


@pytest.fixture
def batch() -> Batch:
    """Three packed questions on a wide picture, one on a tall padded one, one without a picture."""
    return make_batch(
        [([(4, 2), (3, 1), (6, 3)], 0), ([(5, 2)], 1), ([(3, 2)], -1)], [((1, 2), (32, 64)), ((2, 1), (60, 20))]
    )


@pytest.fixture
def make() -> Callable[..., Batch]:
    return make_batch


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell the largest difference that tests recorded under each name when they were taken down."""
    largest = dict[str, float]()
    for report in terminalreporter.getreports(""):  # set-up and take-down
        for name, value in report.user_properties:
            assert isinstance(value, float)
            largest[name] = max(largest.get(name, 0.0), value)
    for name, value in largest.items():
        terminalreporter.write_line(f"largest difference, {name}: {value:.1e}")
