from collections.abc import Callable
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.image_gallery import Answered, answer_everywhere, first_images, image_figure, pixels_of
from lit_avg.batch import Batch
from lit_avg.stages import RGLF
from lit_avg.training.optim import Optimization
from tests.tiny import TILE, tiny_model
from tests.tiny_run import TinyData


def test_the_first_questions_on_the_first_images_are_kept_as_they_are(batch: Batch) -> None:
    kept = first_images(batch, images=2, questions=2)
    assert kept is not None
    assert kept.keys == ["000", "001", "003"]  # two of the three on the first image, one on the second
    assert kept.image_of_row.tolist() == [0, 0, 1]
    model = tiny_model()
    whole = model.generate_ids(batch, [2] * 5, max_new_tokens=3)
    assert torch.equal(model.generate_ids(kept, [2] * 3, max_new_tokens=3), whole[[0, 1, 3]])
    asked = [kept.input_ids[row][kept.instruction[row]] for row in range(3)]
    expected = [batch.input_ids[batch.instruction & (batch.question == question)] for question in (0, 1, 3)]
    assert all(torch.equal(one, other) for one, other in zip(asked, expected, strict=True))


def test_without_images_there_is_nothing_to_show(make: Callable[..., Batch]) -> None:
    assert first_images(make([([(3, 2)], -1)], []), images=2, questions=2) is None


def test_each_question_is_answered_at_every_level_and_the_routers_choice_is_told(batch: Batch) -> None:
    stage = RGLF(tiny_model, Optimization(lr=0.1))
    stage.configure_model()
    stage.eval()
    kept = first_images(batch, images=1, questions=3)
    assert kept is not None
    answered = answer_everywhere(stage, kept, TinyData(), max_new_tokens=3)
    scores = stage.evaluate(batch).scores
    assert scores is not None
    assert [one.chosen for one in answered] == scores[:3].argmax(dim=1).tolist()
    ids = stage.model.generate_ids(kept, [4] * 3, max_new_tokens=3)[0]
    assert answered[0].answers[4] == TinyData().decode(ids[ids != stage.model.backbone.end_tokens[0]])
    assert [len(one.question.split()) for one in answered] == [4, 3, 6]  # instruction tokens, as made


def test_the_image_is_the_plane_of_its_tiles(batch: Batch) -> None:
    batch.pixel_values[1], batch.pixel_values[2] = -1.0, 1.0  # left and right tile; the global view is number 0
    pixels = pixels_of(batch, 0, TinyData().denormalise(batch.pixel_values))  # normalised with mean and deviation 0.5
    assert pixels.shape == (TILE, 2 * TILE, 3)
    assert (pixels[:, :TILE] == 0).all()
    assert (pixels[:, TILE:] == 1).all()


def test_the_chosen_level_is_framed_and_wrong_answers_are_red() -> None:
    figure = image_figure(torch.zeros(4, 4, 3), [Answered("cost?", "$5", ["$4", "$5"], chosen=1)], (2, 4))
    (table,) = figure.axes[1].tables
    assert [table[1, column].get_text().get_text() for column in range(4)] == ["cost?", "$5", "$4", "$5"]
    assert [table[1, column].visible_edges for column in (2, 3)] == ["BT", "BRTL"]
    assert [table[1, column].get_text().get_color() for column in (2, 3)] == ["#b2182b", "black"]
    figure.canvas.draw()


def test_a_run_shows_its_images_in_tensorboard(tested_run: Path) -> None:
    events = EventAccumulator(str(min(tested_run.glob("events*"))), size_guidance={"images": 0})
    events.Reload()
    assert {"images/0", "images/1", "router/selection/val"} == set(events.Tags()["images"])
    assert [image.step for image in events.Images("images/0")] == [1, 3]
