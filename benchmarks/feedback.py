"""How much of a router's epoch is left when feedback comes from a store? Run: python -m benchmarks.feedback

Steps of stage 4 (loss, backward, AdamW) on the same random batch, live and from what was computed on it before, in
turn. The two must give the same loss, bit for bit, or nothing is timed. The share at 7B is told by its FLOPs alone.
"""

import argparse
from dataclasses import replace
from statistics import median
from typing import cast

import torch

from benchmarks.measure import machine, ratio, seconds_in_turn
from benchmarks.necessary import Necessary, necessary
from benchmarks.shapes import SHAPES, Shape, make_batch, make_model, make_stage
from lit_avg.batch import Batch
from lit_avg.feedback.lmm_feedback import Feedback
from lit_avg.feedback.part_files import StoredFeedback
from lit_avg.feedback.store import FeedbackReader
from lit_avg.stages import RGLF


def needed_by(shape: Shape) -> Necessary:
    """FLOPs of a step's parts; nothing is computed."""
    model = make_model(replace(shape, device="meta"))
    size = (shape.tile_grid[0] * shape.vision["image_size"], shape.tile_grid[1] * shape.vision["image_size"])
    return necessary(
        shape, model, [model.layout.count(shape.tile_grid, size, level) for level in range(len(shape.granularities))]
    )


def told(name: str, parts: Necessary) -> str:
    """What a step with and without the LLM needs."""
    llm = sum(parts.llm)
    return (
        f"{name:<7} GFLOP necessary a step: encoder {parts.vision / 1e9:,.0f}, LLM {llm / 1e9:,.0f}, all "
        f"{parts.stage4 / 1e9:,.0f}; from the store {1 - llm / parts.stage4:.3f} of live"
    )


def reader_of(feedback: Feedback, batch: Batch, shape: Shape) -> FeedbackReader:
    """What a fit would read of a store with the feedback on this batch."""
    nothing = torch.zeros(len(batch.keys), dtype=torch.int32)
    names = [""] * len(batch.keys)
    stored = StoredFeedback(batch.keys, names, names, feedback.log_prob, feedback.correct, nothing, nothing)
    return FeedbackReader(stored, shape.granularities, shape.granularities)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print("\n".join(told(name, needed_by(SHAPES[name])) for name in ("anchor", "7b")))
    shape = SHAPES["anchor"]
    stage, batch = cast(RGLF, make_stage(4, make_model(shape))), make_batch(shape)
    reader = reader_of(stage.feedback_on(batch, stage.encode_levels(batch)), batch, shape)
    optimizer = torch.optim.AdamW(stage.model.router.parameters(), lr=1e-3)

    def loss(from_store: bool) -> torch.Tensor:
        torch.manual_seed(1)  # the router has dropout
        levels = stage.encode_levels(batch)
        feedback = reader(batch.keys, batch.labels.device) if from_store else stage.feedback_on(batch, levels)
        scores = stage.model.route(batch, levels).float().log_softmax(dim=1)
        return stage.rglf_loss(scores, feedback.log_prob)["loss"]

    def step(from_store: bool) -> None:
        optimizer.zero_grad()
        loss(from_store).backward()
        optimizer.step()

    losses = [loss(from_store).item() for from_store in (False, True)]
    if losses[0] != losses[1]:
        raise SystemExit(f"live and stored feedback give the losses {losses}: nothing to compare")
    seconds = seconds_in_turn({"live": lambda: step(False), "from store": lambda: step(True)}, rounds)
    print(f"{machine('cpu')}, {shape.rows} images a step, losses equal bit for bit, median of {rounds} steps")
    for way, taken in seconds.items():
        print(f"{way:<10} {median(taken):.3f} s per step")
    print(f"ratio      {ratio(seconds['from store'], seconds['live']):.2f}")


if __name__ == "__main__":
    main()
