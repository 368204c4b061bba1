"""The shipped strategies train every stage as one process does; the whole matrix: `python -m tests.strategy_matrix`."""

from pathlib import Path

import pytest

from tests.strategy_matrix import (
    differences,
    exported,
    fit_stages,
    handed_over,
    prepare,
    resumed,
    train_alone,
)
from tests.two_ranks import on_ranks

TRAINED = {
    "ddp": ["3"],
    "zero2": ["4"],
    "zero3": ["1", "3", "4"],
    "fsdp2": ["1", "3", "4 stored"],
}
"""What of the matrix is tried each time: wherever ranks once had something else to compute.

DeepSpeed compiles the optimiser of `zero3_offload` for a minute; `python -m tests.strategy_matrix` tries that as well.
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the runs of one process, and its feedback in a store."""
    folder = tmp_path_factory.mktemp("matrix") / "runs"
    prepare(folder)
    train_alone(folder)
    return folder


def assert_alike(folder: Path, strategy: str, numbers: list[str]) -> None:
    """Losses and gradients of all steps, and the weights that the next stage gets."""
    status = on_ranks(2, folder / f"marks-{strategy}", fit_stages, str(folder), strategy, numbers, seconds=400)
    assert status == [0, 0]
    for number in numbers:
        losses, norms = differences(folder, strategy, number)
        assert (losses < 1e-5, norms < 1e-4) == (True, True), (number, losses, norms)
        weights = handed_over(folder, strategy, number)
        assert weights is None or weights < 1e-4, (number, weights)


@pytest.mark.slow
@pytest.mark.usefixtures("deepspeed_operators")
@pytest.mark.parametrize("strategy", TRAINED)
def test_a_strategy_trains_a_stage_as_one_process_does_and_hands_it_on(folder: Path, strategy: str) -> None:
    assert_alike(folder, strategy, TRAINED[strategy])
    assert exported(folder, strategy, TRAINED[strategy][-1])
    if strategy == "fsdp2":  # DeepSpeed's is killed in `tests/test_recipe_chain.py`
        assert resumed(folder, strategy, "3")
