from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.tiny_run import TinyData


def test_speeds_are_logged_in_the_ratio_of_what_a_batch_holds(tested_run: Path) -> None:
    events = EventAccumulator(str(min(tested_run.glob("events*"))))
    events.Reload()
    names = ("questions", "text_tokens", "answer_tokens")
    logged = [events.Scalars(f"throughput/{name}_per_second") for name in names]
    assert [[scalar.step for scalar in scalars] for scalars in logged] == [[1, 3]] * 3  # as Lightning counts, from 0
    questions, text, answers = (scalars[0].value for scalars in logged)
    batch = next(iter(TinyData().train_dataloader()))
    assert answers / questions == pytest.approx(8 / 4)  # answers of 2, 1, 3 and 2 tokens
    assert text / questions == pytest.approx(int((batch.question >= -1).sum()) / 4)
