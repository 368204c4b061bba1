"""How much faster are questions behind one visual prefix than one by one? Run: python -m benchmarks.packing

Both ways are run in turn on the same Jersey-sized batch (random pixels and weights): one stage-3 step each, forward and
backward through all granularities. Their losses are compared before anything is timed.
"""

import argparse
import statistics
import time
from functools import partial
from pathlib import Path

import torch
import yaml

from lit_avg.batch import IGNORED_LABEL, IMAGE_PLACEHOLDER, PREFIX, Batch
from lit_avg.llava_next.backbone import Backbone
from lit_avg.llava_next.llm_input import separate_questions
from lit_avg.model import AvgLlava
from lit_avg.routing.router import GranularityRouter
from lit_avg.stages import MultiGranularityTuning
from lit_avg.training.optim import Optimization
from lit_avg.visual_tokens.granularity import Granularities

MODEL = Path(__file__).parents[1] / "experiments" / "jersey" / "model.yaml"

PREFIX_TOKENS, ASKED, ANSWERED, QUESTIONS = 4, 7, 3, 5


def make_batch(images: int) -> Batch:
    """Wide images of two tiles and a global view, five questions on each."""
    generator = torch.Generator().manual_seed(0)
    prefix, own = PREFIX_TOKENS + 1, ASKED + ANSWERED
    ids = torch.randint(3, 500, (images, prefix + QUESTIONS * own), generator=generator)
    ids[:, PREFIX_TOKENS] = IMAGE_PLACEHOLDER
    place = torch.arange(QUESTIONS * own)
    question = torch.cat([torch.full((prefix,), PREFIX), place // own]).repeat(images, 1)
    question[:, prefix:] += QUESTIONS * torch.arange(images).unsqueeze(1)
    answer = torch.cat([torch.zeros(prefix, dtype=torch.bool), place % own >= ASKED])
    names = [str(number) for number in range(images * QUESTIONS)]
    return Batch(
        input_ids=ids,
        labels=ids.masked_fill(~answer, IGNORED_LABEL),
        question=question,
        instruction=(question >= 0) & ~answer,
        image_of_row=torch.arange(images),
        pixel_values=torch.randn(images * 3, 3, 64, 64, generator=generator),
        tile_grids=[(1, 2)] * images,
        image_sizes=torch.tensor([[64, 128]] * images),
        keys=names,
        kinds=["all"] * len(names),
        answers=names,
    )


def make_stage() -> MultiGranularityTuning:
    """The laptop-sized model of experiments/jersey with random weights."""
    settings = yaml.safe_load(MODEL.read_text(encoding="utf-8"))["init_args"]
    torch.manual_seed(0)
    model = partial(
        AvgLlava,
        partial(Backbone, **settings["backbone"]["init_args"]),
        Granularities(**settings["granularities"]),
        partial(GranularityRouter, **settings["router"]["init_args"]),
        k=settings["k"],
    )
    stage = MultiGranularityTuning(model, Optimization(lr=1e-3), frozen=["vision_encoder"])
    stage.configure_model()
    return stage


def step(stage: MultiGranularityTuning, batch: Batch) -> tuple[float, float]:
    """Loss and seconds of one step."""
    begin = time.perf_counter()
    loss = stage.loss(batch)["loss"]
    loss.backward()
    stage.zero_grad()
    return loss.item(), time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    stage, packed = make_stage(), make_batch(arguments.images)
    separate = separate_questions(packed)
    difference = abs(step(stage, packed)[0] - step(stage, separate)[0])
    if difference > 1e-5:
        raise SystemExit(f"the two ways differ by {difference} in their loss: nothing to compare")
    seconds = [(step(stage, packed)[1], step(stage, separate)[1]) for _ in range(arguments.rounds)]
    ratio = statistics.median(one_by_one / together for together, one_by_one in seconds)
    together, one_by_one = (statistics.median(times) for times in zip(*seconds, strict=True))
    print(f"{torch.get_num_threads()} threads, {arguments.images} images, {QUESTIONS} questions on each")
    print(f"packed     {together:.3f} s per step (median of {arguments.rounds})")
    print(f"one by one {one_by_one:.3f} s per step")
    print(f"ratio      {ratio:.2f} (loss difference {difference:.1e})")


if __name__ == "__main__":
    main()
