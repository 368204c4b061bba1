"""Jersey's questions: five on every image, none of which depends on another.

Some take a close look and some a glance, so that the instruction tells how much detail is needed.
"""

from datamodules.jersey.drawing import COLOURS, Scene

QUESTIONS = {
    "number": "Which number?",
    "jersey": "Which jersey colour?",
    "place": "Where is the player?",
    "brightest": "Where is it brightest?",
    "crowd": "Which crowd colour?",
}
"""The question of each kind."""

VERTICAL, HORIZONTAL = ("top", "bottom"), ("left", "right")


def answers(scene: Scene) -> dict[str, str]:
    """The answer to the question of each kind, about the scene's only player."""
    names = list(COLOURS)
    player = scene.player
    rows, columns = scene.crowd.shape
    below = 2 * player.row + player.rows > rows
    to_the_right = 2 * player.column + player.columns > columns
    return {
        "number": str(player.number),
        "jersey": names[player.colour],
        "place": _quarter(below, to_the_right),
        "brightest": _quarter(*scene.brightest),
        "crowd": names[scene.dominant],
    }


def conversation(scene: Scene, name: str) -> dict[str, object]:
    """The questions and answers as a sample in LLaVA's form, each round with its kind."""
    turns: list[dict[str, str]] = []
    for kind, answer in answers(scene).items():
        image = "" if turns else "<image>\n"
        turns += [{"from": "human", "value": image + QUESTIONS[kind]}, {"from": "gpt", "value": answer}]
    return {"id": name, "conversations": turns, "kinds": list(QUESTIONS), "source": "jersey"}


def _quarter(bottom: int, right: int) -> str:
    return f"{VERTICAL[bottom]} {HORIZONTAL[right]}"
