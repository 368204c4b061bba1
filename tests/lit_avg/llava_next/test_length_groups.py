from itertools import combinations, pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_avg.llava_next.backbone import Backbone
from lit_avg.llava_next.generation import groups_of_like_length
from tests.tiny import tiny_backbone


def cost(lengths: list[int], groups: list[list[int]], own: float) -> float:
    return sum(max(lengths[place] for place in group) * len(group) + own for group in groups)


def cheapest_by_trying(lengths: list[int], own: float) -> float:
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    costs: list[float] = []
    for number in range(len(order)):
        for cuts in combinations(range(1, len(order)), number):
            ends = [0, *cuts, len(order)]
            costs.append(cost(lengths, [order[a:b] for a, b in pairwise(ends)], own))
    return min(costs)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=7), st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_no_other_partition_costs_less(lengths: list[int], own: int) -> None:
    groups = groups_of_like_length(lengths, own)
    assert sorted(place for group in groups for place in group) == list(range(len(lengths)))
    assert cost(lengths, groups, own) == cheapest_by_trying(lengths, own)


def test_one_long_prompt_does_not_pad_three_short_ones() -> None:
    # together 4 x 3000 tokens; apart 3 x 200 + 3000, and 400 for each of two groups
    assert groups_of_like_length([200, 3000, 200, 190], 400) == [[3, 0, 2], [1]]
    assert groups_of_like_length([200, 3000, 200, 190], 9000) == [[3, 0, 2, 1]]


def continued(backbone: Backbone, prompts: list[torch.Tensor], tokens: int) -> list[list[int]]:
    return backbone.generate(prompts, tokens).tolist()


def test_prompts_continued_in_groups_say_what_each_says_alone() -> None:
    backbone = tiny_backbone().eval()
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randn(length, backbone.width, generator=generator) for length in (5, 700, 6, 640)]
    assert len(groups_of_like_length([5, 700, 6, 640], 2 * 100)) > 1
    together = continued(backbone, prompts, 2)
    alone = [continued(backbone, [prompt], 2)[0] for prompt in prompts]
    assert [row[: len(one)] for row, one in zip(together, alone, strict=True)] == alone
    assert all(token == 49 for row, one in zip(together, alone, strict=True) for token in row[len(one) :])
