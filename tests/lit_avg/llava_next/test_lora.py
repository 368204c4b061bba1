"""An adapter beside the LLM: nothing at first, any family's, and the LLM that it was merged into computes the same."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from lit_avg.batch import Batch
from lit_avg.llava_next.backbone import Backbone
from lit_avg.llava_next.hf_model import without_llm
from lit_avg.llava_next.lora import LoRA, adapted_layers
from lit_avg.model import AvgLlava
from lit_avg.routing.router import GranularityRouter
from lit_avg.training.frozen_parts import names_of, part_hash
from lit_avg.utils.errors import UserError
from lit_avg.visual_tokens.granularity import Granularities
from tests.llms import LLMS, llm
from tests.tiny import LEVELS, TILE, tiny_backbone

VISION = {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
VISION |= {"num_attention_heads": 2, "image_size": TILE, "patch_size": 8}


def model_with(lora: LoRA | None, family: str = "llama2", gradient_checkpointing: bool = False) -> AvgLlava:
    torch.manual_seed(0)
    backbone = partial(Backbone, dict(VISION), llm(family), gradient_checkpointing=gradient_checkpointing, lora=lora)
    router = partial(GranularityRouter, instruction_tokens=4, heads=2, dropout=0.0)
    return AvgLlava(backbone, Granularities(LEVELS), router, k=4).eval()


def log_probs(model: AvgLlava, batch: Batch) -> Tensor:
    return model.answer_tokens_at(batch, model.encode_levels(batch), len(LEVELS) - 1).log_prob


def trained_a_little(model: AvgLlava) -> None:
    """B no longer zero."""
    for layer in adapted_layers(model.backbone.hf).values():
        nn.init.normal_(layer.lora_B["default"].weight, std=0.3)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("family", LLMS)
def test_a_fresh_adapter_changes_nothing_and_a_merged_one_computes_what_it_did(family: str, batch: Batch) -> None:
    model = model_with(LoRA(rank=4, alpha=8), family)
    before, sha256, state = log_probs(model, batch), part_hash(model.backbone, "llm"), torch.get_rng_state()
    model.backbone.add_adapter()
    assert torch.equal(torch.get_rng_state(), state)  # what else is drawn does not depend on it
    assert torch.equal(log_probs(model, batch), before)
    linear = [name for name, one in model.backbone.hf.model.language_model.named_modules() if type(one) is nn.Linear]
    assert len([name for name in linear if name.endswith("base_layer")]) == len(linear) // 3  # and lora_A, lora_B
    trained_a_little(model)
    adapted = log_probs(model, batch)
    assert (adapted - before).abs().max() > 0.1
    assert part_hash(model.backbone, "llm") == sha256  # it is the same LLM
    model.backbone.merge_adapter()
    torch.testing.assert_close(log_probs(model, batch), adapted, atol=1e-4, rtol=1e-4)
    assert part_hash(model.backbone, "llm") != sha256
    assert not [name for name in model.state_dict() if "lora" in name or "base_layer" in name]


def test_every_parameter_belongs_to_one_part_and_a_tied_head_to_the_llm() -> None:
    backbone = model_with(LoRA(2, 4, targets=["q_proj", "down_proj"]), "smollm2").backbone
    plain = names_of(backbone, "llm")
    backbone.add_adapter()
    parts = [parameter for part in backbone_parts(backbone) for parameter in part]
    assert sorted(map(id, parts)) == sorted(id(parameter) for parameter in backbone.parameters())
    assert {name.replace(".base_layer.", ".") for name in names_of(backbone, "llm")} == plain
    assert backbone.hf.lm_head.weight is backbone.hf.model.language_model.get_input_embeddings().weight
    # of 3 layers two matrices each, (2 x in) and (out x 2): q_proj 24 to 24, down_proj 48 to 24
    assert sum(one.numel() for one in backbone.parameters_of("llm_adapter")) == 3 * (2 * 24 + 24 * 2 + 2 * 48 + 24 * 2)


def backbone_parts(backbone: Backbone) -> list[list[nn.Parameter]]:
    return [backbone.parameters_of(part) for part in ("vision_encoder", "connector", "llm", "llm_adapter")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_is_drawn_by_the_seed_alone_in_the_precision_of_its_llm(dtype: torch.dtype) -> None:
    def drawn(seed: int, numbers_before: int) -> list[Tensor]:
        backbone = tiny_backbone(lora=LoRA(4, 8)).to(dtype)
        torch.manual_seed(seed)
        torch.rand(numbers_before)
        backbone.add_adapter()
        return backbone.parameters_of("llm_adapter")

    first, again, other = drawn(1, 0), drawn(1, 7), drawn(2, 0)
    assert {one.dtype for one in first} == {dtype}
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert any(not torch.equal(*pair) for pair in zip(first, other, strict=True))


def test_dropout_is_for_training_alone(batch: Batch) -> None:
    model = model_with(LoRA(4, 8, dropout=0.5))
    model.backbone.add_adapter()
    trained_a_little(model)
    assert torch.equal(log_probs(model, batch), log_probs(model, batch))
    model.train()
    assert not torch.equal(log_probs(model, batch), log_probs(model, batch))


@pytest.mark.parametrize("family", ["llama2", "phi3", "gemma2"])
def test_recomputing_layers_leaves_the_gradients_of_an_adapter(family: str, batch: Batch) -> None:
    def gradients(recompute: bool) -> list[Tensor | None]:
        model = model_with(LoRA(4, 8), family, recompute)
        model.backbone.add_adapter()
        torch.manual_seed(1)
        trained_a_little(model)
        model.train()
        log_probs(model, batch).sum().backward()
        return [parameter.grad for parameter in model.backbone.parameters_of("llm_adapter")]

    torch.testing.assert_close(gradients(True), gradients(False), atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0, "alpha": 8}, "lora.rank must be a number at least 1, but is 0"),
        ({"rank": 4, "alpha": 0}, "lora.alpha must be a number above 0, but is 0"),
        ({"rank": 4, "alpha": 8, "dropout": 1.0}, "lora.dropout must be a number at least 0 and below 1, but is 1.0"),
        ({"rank": 4, "alpha": 8, "targets": []}, "lora.targets is empty; name layers as q_proj, or null for all"),
        (
            {"rank": 4, "alpha": 8, "targets": ["q_proj", "o_proj"]},
            "lora.targets: q_proj is no linear layer of a phi3; choose among o_proj, qkv_proj, gate_up_proj, down_proj",
        ),
        ({"rank": 4, "alpha": 8, "targets": ["embed_tokens", "lm_head"]}, "embed_tokens, lm_head is no linear layer"),
    ],
)
def test_what_no_adapter_can_be_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        model_with(LoRA(**settings), "phi3").backbone.add_adapter()  # pyright: ignore[reportArgumentType]


def test_where_there_is_no_llm_there_is_no_adapter() -> None:
    with without_llm("0" * 64):
        backbone = model_with(LoRA(4, 8)).backbone
    backbone.add_adapter()
    assert backbone.parameters_of("llm_adapter") == []
