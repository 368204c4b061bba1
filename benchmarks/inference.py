"""A routed prefill against the authors' way and against the sum of its parts. Run: python -m benchmarks.inference

One prompt, to its first token. Both ways read it at the same granularity, so that the LLM has the same to do. Then a
batch of four whose questions chose four granularities, answered in one padded batch and in groups of like length, and
one prompt answered with transformers' growing cache and with its static one.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor
from transformers import GenerationConfig

from benchmarks.measure import counted_gflop, machine, ratio, seconds_in_turn, table
from benchmarks.naive import Naive
from benchmarks.shapes import SHAPES, Shape, make_batch, make_model
from lit_avg.batch import Batch
from lit_avg.llava_next.generation import Generation
from lit_avg.llava_next.llm_input import llm_input, separate_questions, without_last_answers
from lit_avg.model import AvgLlava


def prompts(shape: Shape, rows: int) -> Batch:
    """The shape's batch without its answers."""
    return without_last_answers(separate_questions(make_batch(replace(shape, rows=rows))))


@torch.no_grad()
def routed_prefill(model: AvgLlava, batch: Batch, level: int) -> Tensor:
    """As `AvgLlava.generate` answers, up to the first token, at a level whatever the router says."""
    levels = model.encode_levels(batch)
    model.route(batch, levels).argmax(dim=1).tolist()
    return model.generate_ids(batch, [level] * len(batch.keys), 1, levels=levels)


def parts(model: AvgLlava, batch: Batch, level: int) -> dict[str, Callable[[], object]]:
    """Encoder, router and LLM, each by itself."""
    levels = model.encode_levels(batch)
    naive, features = Naive(model), levels[-1]
    rows = llm_input(batch, [level] * len(batch.keys), model.layout)
    prompt = list(model.embeddings(batch, levels, [level] * len(batch.keys), rows))

    def routed() -> Tensor:
        return model.route(batch, model.scaler(features))

    return {
        "vision": torch.no_grad()(lambda: model.encode(batch)),
        "router": torch.no_grad()(routed),
        "router, naive": torch.no_grad()(lambda: naive.route(batch, features)),
        "LLM": torch.no_grad()(lambda: model.backbone.generate(prompt, 1)),
    }


def prefill_table(shape: Shape, rounds: int) -> str:
    """Seconds of the parts and of the whole, ours and naive, and their ratios."""
    model, batch = make_model(shape).eval(), prompts(shape, 1)
    naive, level = Naive(model), 1
    ways = parts(model, batch, level) | {
        "ours": lambda: routed_prefill(model, batch, level),
        "naive": lambda: naive.prefill(batch, level),
        "naive, finest": lambda: naive.prefill(batch, len(model.granularities) - 1),
    }
    same = naive.prefill(batch, level).argmax(dim=1).tolist() == routed_prefill(model, batch, level)[:, 0].tolist()
    if not same and shape.dtype == torch.float32:
        raise SystemExit("the first tokens differ: nothing to compare")
    seconds = seconds_in_turn(ways, rounds)
    sums = [sum(times) for times in zip(*(seconds[part] for part in ("vision", "router", "LLM")), strict=True)]
    rows = [
        [name, f"{median(times) * 1000:.0f}", f"{counted_gflop(ways[name]):.1f}"] for name, times in seconds.items()
    ]
    rows += [
        ["ours / (vision + router + LLM)", f"{ratio(seconds['ours'], sums):.2f}", ""],
        ["ours / naive", f"{ratio(seconds['ours'], seconds['naive']):.2f}", ""],
        ["router, ours / naive", f"{ratio(seconds['router'], seconds['router, naive']):.2f}", ""],
        ["router's share, ours", f"{ratio(seconds['router'], seconds['ours']):.2f}", ""],
        ["router's share, naive", f"{ratio(seconds['router, naive'], seconds['naive']):.2f}", ""],
    ]
    return table(("routed prefill", "ms, or ratio", "GFLOP counted"), rows)


def answers_table(shape: Shape, rounds: int, new: int) -> str:
    """Seconds of answering four questions at four levels, and one question with either cache."""
    model, four, one = make_model(shape).eval(), prompts(shape, 4), prompts(shape, 1)
    count = len(model.granularities)
    mixed = [0, 1, 2, count - 1]
    levels, levels_of_one = model.encode_levels(four), model.encode_levels(one)
    rows = llm_input(four, mixed, model.layout)
    embeddings = model.embeddings(four, levels, mixed, rows)
    texts = [row[: int((kept >= -1).sum())] for row, kept in zip(embeddings, rows.question, strict=True)]
    settings = GenerationConfig(do_sample=False, min_new_tokens=new)
    fixed = GenerationConfig(do_sample=False, min_new_tokens=new, cache_implementation="static")
    backbone = model.backbone
    ways = {
        "mixed levels, padded": lambda: backbone.continued(texts, new, Generation(settings)),
        "mixed levels, grouped": lambda: backbone.generate(texts, new, Generation(settings)),
        "one prompt, growing cache": lambda: model.generate_ids(one, [1], new, Generation(settings), levels_of_one),
        "one prompt, static cache": lambda: model.generate_ids(one, [1], new, Generation(fixed), levels_of_one),
    }
    seconds = seconds_in_turn(ways, rounds)
    bases = {"mixed levels, grouped": "mixed levels, padded", "one prompt, static cache": "one prompt, growing cache"}
    head = (f"{new} new tokens", "ms", "ratio")
    cells = [
        [name, f"{median(times) * 1000:.0f}", f"{ratio(times, seconds[bases[name]]):.2f}" if name in bases else ""]
        for name, times in seconds.items()
    ]
    return table(head, cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="anchor")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--new-tokens", type=int, default=16)
    arguments = parser.parse_args()
    shape = SHAPES[arguments.shape]
    print(f"{arguments.shape} on {machine(shape.device)}, medians of {arguments.rounds}")
    print(prefill_table(shape, arguments.rounds) + "\n")
    with torch.no_grad():
        print(answers_table(shape, max(2, arguments.rounds // 3), arguments.new_tokens))


if __name__ == "__main__":
    main()
