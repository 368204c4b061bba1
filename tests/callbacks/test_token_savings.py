import json
from pathlib import Path

import pytest
import torch

from callbacks.token_savings import cost_shares
from lit_avg.batch import Batch
from lit_avg.llava_next.flops import llm_forward_flops
from lit_avg.stages import RGLF
from lit_avg.training.optim import Optimization
from tests.tiny import tiny_model


def test_costs_are_shares_of_the_finest_level_over_questions_with_an_image(batch: Batch) -> None:
    stage = RGLF(tiny_model, Optimization(lr=0.1))
    stage.configure_model()
    stage.eval()
    with torch.no_grad():
        outcomes = stage.evaluate(batch)  # four questions with an image, the fifth without
    chosen = torch.tensor([0, 4, 4, 2, 0])
    tokens = outcomes.visual_tokens
    picked = torch.tensor([tokens[0, 0], tokens[1, 4], tokens[2, 4], tokens[3, 2]])
    shape = stage.model.backbone.hf.config.text_config
    flops = [llm_forward_flops(shape, count + outcomes.text_tokens[:4]) for count in (picked, tokens[:4, 4])]
    assert cost_shares(stage, outcomes, chosen) == {
        "tokens_per_tile_share": pytest.approx((1 + 16 + 16 + 4) / 4 / 16),
        "token_share": pytest.approx(picked.sum().item() / tokens[:4, 4].sum().item()),
        "llm_flops_share": pytest.approx(flops[0] / flops[1]),
    }


def test_without_any_image_there_is_nothing_to_tell(batch: Batch) -> None:
    stage = RGLF(tiny_model, Optimization(lr=0.1))
    stage.configure_model()
    with torch.no_grad():
        outcomes = stage.evaluate(batch).rows(torch.tensor([4]))
    assert cost_shares(stage, outcomes, torch.tensor([0])) == {}


def test_the_savings_of_every_policy_are_in_the_result(tested_run: Path) -> None:
    metrics = json.loads((tested_run / "result.json").read_text())["metrics"]
    shares = [metrics[f"fixed {tokens}/llm_flops_share"] for tokens in (1, 2, 4, 8, 16)]
    assert shares == sorted(set(shares))
    assert shares[-1] == 1
    assert shares[0] <= metrics["router/llm_flops_share"] <= 1
