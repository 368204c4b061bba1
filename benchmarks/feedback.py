"""How much of a router's epoch is left when feedback comes from a store? Run: python -m benchmarks.feedback

Steps of stage 4 (loss, backward, AdamW) on the same random batches, live and from what was computed on them before, in
turn. The two must give the same loss, bit for bit, or nothing is timed. The shapes are those on which the authors'
release was timed, `anchor`; the share at 7B is told by counting operations, with no such model built.
"""

import argparse
import statistics
import time
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from lit_avg.alone import lmm_feedback_alone, see_alone
from lit_avg.backbone import Backbone
from lit_avg.batch import IGNORED_LABEL, IMAGE_PLACEHOLDER, PREFIX, Batch
from lit_avg.feedback import Feedback
from lit_avg.granularity import Granularities
from lit_avg.model import AvgLlava
from lit_avg.optim import Optimization
from lit_avg.router import GranularityRouter
from lit_avg.stages import RGLF

LEVELS = (36, 72, 144, 288, 576)

TOKENS_BEFORE, INSTRUCTION, ANSWER = 35, 29, 16

VISION = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4}
LLM = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 6}
LLM |= {"num_key_value_heads": 6, "vocab_size": 8000}

VISION_7B = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
LLM_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
LLM_7B |= {"num_key_value_heads": 32, "vocab_size": 32000}


def make_batch(images: int) -> Batch:
    """Square pictures of 2x2 tiles and a global view, one question on each."""
    generator = torch.Generator().manual_seed(3)
    length = TOKENS_BEFORE + 1 + INSTRUCTION + ANSWER
    ids = torch.randint(3, 8000, (images, length), generator=generator)
    ids[:, TOKENS_BEFORE] = IMAGE_PLACEHOLDER
    question = torch.arange(images).unsqueeze(1).repeat(1, length)
    question[:, : TOKENS_BEFORE + 1] = PREFIX
    answer = torch.zeros_like(ids, dtype=torch.bool)
    answer[:, -ANSWER:] = True
    names = [str(number) for number in range(images)]
    return Batch(
        input_ids=ids,
        labels=ids.masked_fill(~answer, IGNORED_LABEL),
        question=question,
        instruction=(question >= 0) & ~answer,
        image_of_row=torch.arange(images),
        pixel_values=torch.randn(images * 5, 3, 336, 336, generator=generator),
        tile_grids=[(2, 2)] * images,
        image_sizes=torch.tensor([[672, 672]] * images),
        keys=names,
        kinds=["all"] * images,
        answers=names,
    )


def make_stage(vision: dict[str, int], llm: dict[str, int]) -> RGLF:
    """Stage 4 on random weights, with the release's semantics."""
    torch.manual_seed(0)
    backbone = partial(
        Backbone,
        {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14, **vision},
        {"model_type": "llama", "max_position_embeddings": 8192, **llm},
    )
    model = partial(AvgLlava, backbone, Granularities(LEVELS), GranularityRouter, k=32, semantics="release")
    stage = RGLF(model, Optimization(lr=1e-3))
    stage.configure_model()
    return stage


def step(stage: RGLF, batch: Batch, stored: Feedback | None, optimizer: torch.optim.Optimizer | None) -> float:
    """One step of training on feedback that is stored or else live; its loss."""
    torch.manual_seed(1)  # the router has dropout
    levels = stage.see(batch)
    feedback = stored or lmm_feedback_alone(stage.model, batch, levels)
    scores = stage.model.route(batch, levels).float().log_softmax(dim=1)
    loss = stage.rglf_loss(scores, feedback.log_prob)["loss"]
    loss.backward()
    if optimizer is not None:
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def seconds(stage: RGLF, batch: Batch, stored: Feedback | None, optimizer: torch.optim.Optimizer) -> float:
    """How long one step takes."""
    begin = time.perf_counter()
    step(stage, batch, stored, optimizer)
    return time.perf_counter() - begin


def parts_in_flops(vision: dict[str, int], llm: dict[str, int], images: int) -> dict[str, float]:
    """Operations of encoder and connector, LLM, and router with its backward pass, counted without computing anything.

    Multiplications and additions in matrix products and attention, all of its square counted, as torch counts them.
    """
    with torch.device("meta"):
        stage = make_stage(vision, llm)
    pixels, counts = torch.empty(images * 5, 3, 336, 336, device="meta"), dict[str, float]()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        stage.model.backbone.encode(pixels)
    counts["encoder"] = counter.get_total_flops()
    language_model = stage.model.backbone.hf.model.language_model
    matrices = sum(parameter.numel() for layer in language_model.layers for parameter in layer.parameters())
    counts["LLM"] = 0.0
    for level in range(len(LEVELS)):
        length = stage.model.layout.count((2, 2), (672, 672), level) + TOKENS_BEFORE + INSTRUCTION + ANSWER
        attention = 4 * length**2 * llm["hidden_size"] * llm["num_hidden_layers"]
        head = 2 * ANSWER * llm["hidden_size"] * llm["vocab_size"]
        counts["LLM"] += images * (2 * matrices * length + attention + head)
    width = stage.model.backbone.width
    tiles = torch.randn(len(pixels), sum(LEVELS) + 32, width, device="meta")
    seen = torch.ones(tiles.shape[:2], dtype=torch.bool, device="meta")
    with FlopCounterMode(display=False) as counter:
        stage.model.router.votes(stage.model.router.fuse(tiles, seen, [5] * images), seen).sum().backward()
    counts["router"] = counter.get_total_flops()
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for name, shapes in {"anchor": (VISION, LLM), "7B": (VISION_7B, LLM_7B)}.items():
        counts = parts_in_flops(*shapes, arguments.images)
        told = ", ".join(f"{part} {count / 1e9:,.0f}" for part, count in counts.items())
        share = 1 - counts["LLM"] / sum(counts.values())
        print(f"{name:<7} GFLOP a step: {told}; from the store {share:.3f} of live")
    stage, batch = make_stage(VISION, LLM), make_batch(arguments.images)
    with torch.no_grad():
        stored = lmm_feedback_alone(stage.model, batch, see_alone(stage.model, batch))
    losses = [step(stage, batch, feedback, None) for feedback in (None, stored)]
    if losses[0] != losses[1]:
        raise SystemExit(f"live and stored feedback give the losses {losses}: nothing to compare")
    optimizer = torch.optim.AdamW(stage.model.router.parameters(), lr=1e-3)
    stage.zero_grad()
    times = [
        [seconds(stage, batch, feedback, optimizer) for feedback in (None, stored)] for _ in range(arguments.rounds)
    ]
    ratio = statistics.median(from_store / live for live, from_store in times)
    live, from_store = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"{torch.get_num_threads()} threads, {arguments.images} pictures a step, losses equal bit for bit")
    print(f"live       {live:.3f} s per step (median of {arguments.rounds})")
    print(f"from store {from_store:.3f} s per step")
    print(f"ratio      {ratio:.2f}")


if __name__ == "__main__":
    main()
