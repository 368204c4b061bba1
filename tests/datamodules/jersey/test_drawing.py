from itertools import islice

import numpy as np
import pytest

from datamodules.jersey.dense import dense_scene
from datamodules.jersey.drawing import BOARD, CELL, COLOURS, SHAPES, Player, Scene, draw, random_scene
from datamodules.jersey.questions import QUESTIONS, answers, conversation


def scenes(count: int) -> list[Scene]:
    return [random_scene(np.random.default_rng((7, number))) for number in range(count)]


def test_the_same_stream_draws_the_same_image_and_another_one_another() -> None:
    def image(stream: int) -> bytes:
        generator = np.random.default_rng(stream)
        return draw(random_scene(generator), generator).tobytes()

    assert image(1) == image(1)
    assert image(1) != image(2)


def test_images_have_every_shape_and_players_every_size() -> None:
    drawn = scenes(300)
    assert {scene.crowd.shape for scene in drawn} == set(SHAPES)
    assert {scene.player.size for scene in drawn} == {1, 2, 3}


def test_a_player_stands_inside_the_image_and_clearly_in_one_quarter() -> None:
    for scene in scenes(300):
        player = scene.player
        rows, columns = scene.crowd.shape
        assert 0 <= player.row <= rows - player.rows
        assert 0 <= player.column <= columns - player.columns
        assert abs(player.row + player.rows / 2 - rows / 2) >= 1
        assert abs(player.column + player.columns / 2 - columns / 2) >= 1


def test_the_answers_say_what_is_in_the_scene() -> None:
    crowd = np.zeros((8, 16), dtype=np.int64)
    player = Player(row=4, column=1, size=2, number=47, colour=list(COLOURS).index("cyan"))
    scene = Scene(crowd, np.full((8, 16), 0.5, np.float32), (player,), list(COLOURS).index("pink"), (0, 1))
    assert answers(scene) == {
        "number": "47",
        "jersey": "cyan",
        "place": "bottom left",  # rows 4 to 6 of 8, columns 1 to 4 of 16
        "brightest": "top right",
        "crowd": "pink",
    }


def test_digits_are_white_where_the_player_stands() -> None:
    dark = Scene(np.zeros((8, 16), np.int64), np.zeros((8, 16), np.float32), (Player(2, 3, 1, 88, 4),), 0, (0, 0))
    image = draw(dark, np.random.default_rng(0))
    white = (image.min(axis=2) > 180).nonzero()
    assert white[0].min() // CELL == 2
    assert white[0].max() // CELL == 2
    assert set(white[1] // CELL) == {3, 4}
    assert 2 * 13 <= len(white[0]) <= 2 * 17  # an 8 of the 5x7 font has 17 dots


@pytest.mark.parametrize("property_of", ["dominant", "brightest"])
def test_the_crowd_shows_what_is_asked_about(property_of: str) -> None:
    right = 0
    for scene in islice(scenes(200), 100):
        if property_of == "dominant":
            right += np.bincount(scene.crowd.ravel()).argmax() == scene.dominant
        else:
            rows, columns = (side // 2 for side in scene.crowd.shape)
            quarters = scene.brightness.reshape(2, rows, 2, columns).mean(axis=(1, 3))
            right += quarters.argmax() == 2 * scene.brightest[0] + scene.brightest[1]
    assert right >= 95


def times_covered(scene: Scene) -> int:
    covered = np.zeros(scene.crowd.shape, dtype=int)
    for player in scene.players:
        covered[player.place] += 1
    return int(covered.max())


def test_a_dense_image_has_many_players_and_boards_and_none_covers_another() -> None:
    drawn = [dense_scene(np.random.default_rng(number)) for number in range(20)]
    assert {times_covered(scene) for scene in drawn} == {1}
    assert all(len(scene.players) >= 2 for scene in drawn)
    assert {player.worn for scene in drawn for player in scene.players} == {True, False}


def test_an_image_has_one_player_and_boards_beside_him() -> None:
    drawn = scenes(100)
    assert {times_covered(scene) for scene in drawn} == {1}
    boards = [[player for player in scene.players if not player.worn] for scene in drawn]
    assert {len(scene.players) - len(beside) for scene, beside in zip(drawn, boards, strict=True)} == {1}
    assert all(scene.player.worn for scene in drawn)
    assert {board.size for beside in boards for board in beside} == {1, 2}
    assert {len(beside) for beside in boards} <= {0, 1, 2, 3, 4}
    assert 2 < np.mean([len(beside) for beside in boards]) < 4  # of four, some find no room


def test_a_board_is_black_with_white_digits() -> None:
    grey = np.full((8, 16), 0.5, np.float32)
    scene = Scene(np.zeros((8, 16), np.int64), grey, (Player(2, 3, 1, 88, BOARD),), 0, (0, 0))
    board = draw(scene, np.random.default_rng(0))[2 * CELL : 4 * CELL, 3 * CELL : 5 * CELL]
    white = board.min(axis=2) > 180
    assert 2 * 13 <= white.sum() <= 2 * 17
    assert board[~white].max() < 100


def test_a_conversation_has_a_round_and_a_kind_for_every_question_and_shows_its_image_once() -> None:
    (scene,) = scenes(1)
    sample = conversation(scene, "a")
    turns = sample["conversations"]
    assert isinstance(turns, list)
    assert sample["kinds"] == list(QUESTIONS)
    assert [turn["from"] for turn in turns] == ["human", "gpt"] * 5
    assert [turn["value"] for turn in turns[1::2]] == list(answers(scene).values())
    assert ["<image>" in turn["value"] for turn in turns] == [True] + [False] * 9
