"""Every LLM that may be one here computes, packed or not, what transformers' LLaVA-NeXT computes with it."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from lit_avg.backbone import Backbone
from lit_avg.batch import PADDING, Batch
from lit_avg.errors import UserError
from lit_avg.flops import llm_forward_flops
from lit_avg.granularity import Granularities
from lit_avg.llava_next import without_llm
from lit_avg.llm_configs import LLM_TYPES, LlmShape
from lit_avg.model import AvgLlava
from lit_avg.router import GranularityRouter
from lit_avg.sequences import llm_input, separate_questions
from tests.llms import LLMS, WINDOW, llm
from tests.tiny import LEVELS, TILE

VISION = {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
VISION |= {"num_attention_heads": 2, "image_size": TILE, "patch_size": 8}

FINEST = len(LEVELS) - 1


def model_of(family: str, attention: str = "sdpa", gradient_checkpointing: bool = False) -> AvgLlava:
    torch.manual_seed(0)
    backbone = partial(Backbone, dict(VISION), llm(family), None, None, attention, gradient_checkpointing)
    router = partial(GranularityRouter, instruction_tokens=4, heads=2, dropout=0.0)
    return AvgLlava(backbone, Granularities(LEVELS), router, k=4).eval()


def by_transformers(model: AvgLlava, batch: Batch) -> Tensor:
    """Log-probs (A,) of the answers by transformers' own forward pass, each question by itself, `eager` and causal."""
    apart = separate_questions(batch)
    levels = [FINEST] * len(apart.input_ids)
    rows = llm_input(apart, levels, model.layout)
    embeddings = model.embeddings(apart, model.see(apart), levels, rows)
    hf, lengths = model.backbone.hf, (rows.question != PADDING).sum(dim=1).tolist()
    hf.model.language_model.set_attn_implementation("eager")
    log_probs = list[Tensor]()
    for row, length in enumerate(lengths):
        logits = hf(inputs_embeds=embeddings[row : row + 1, :length]).logits[0].float()
        mine = rows.answer_row == row
        log_probs.append(logits.log_softmax(dim=1)[rows.answer_from[mine], rows.answer_token[mine]])
    return torch.cat(log_probs)


def test_no_family_is_left_out() -> None:
    assert {settings["model_type"] for settings in LLMS.values()} == set(LLM_TYPES)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", LLMS)
@torch.no_grad()
def test_packed_questions_score_as_transformers_scores_each(family: str, attention: str, batch: Batch) -> None:
    model = model_of(family, attention)
    found = model.answer_tokens_at(batch, model.see(batch), FINEST).log_prob
    assert int((llm_input(batch, [FINEST] * 3, model.layout).question != PADDING).sum(dim=1).max()) > 4 * WINDOW
    expected = by_transformers(model, batch)
    assert len(found) == len(expected) == 2 + 1 + 3 + 2 + 2
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", LLMS)
def test_recomputing_layers_leaves_the_gradients(family: str, batch: Batch) -> None:
    def gradients(recompute: bool) -> list[Tensor]:
        model = model_of(family, gradient_checkpointing=recompute)
        model.train()
        model.answer_tokens_at(batch, model.see(batch), 2).log_prob.sum().backward()
        return [p.grad for p in model.backbone.parameters() if p.grad is not None]

    torch.testing.assert_close(gradients(True), gradients(False), atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("family", LLMS)
def test_flops_are_those_of_torchs_counter(family: str) -> None:
    config = AutoConfig.for_model(**llm(family))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        # of `eager` two matrix products are counted; of fused CPU kernels none are
        AutoModelForCausalLM.from_config(config, attn_implementation="eager")(torch.ones(1, 7).long(), logits_to_keep=1)
    assert llm_forward_flops(LlmShape.of(config), torch.tensor([7])) == counter.get_total_flops()


@pytest.mark.parametrize("family", LLMS)
@torch.no_grad()
def test_generation_continues_as_transformers_would(family: str, batch: Batch) -> None:
    model = model_of(family)
    prompts = torch.randn(3, 2 * WINDOW, 24).split(1)
    found = model.backbone.generate([prompt[0] for prompt in prompts], max_new_tokens=6)
    hf = model.backbone.hf
    hf.model.language_model.set_attn_implementation("eager")
    for prompt, answer in zip(prompts, found, strict=True):
        expected = hf.generate(inputs_embeds=prompt, do_sample=False, max_new_tokens=6)[0]
        assert answer[: len(expected)].tolist() == expected.tolist()


@pytest.mark.parametrize("family", LLMS)
@torch.no_grad()
def test_a_router_needs_of_the_llm_its_embeddings_alone(family: str, batch: Batch) -> None:
    whole = model_of(family)
    with without_llm("0" * 64):
        model = model_of(family)
    assert len(model.backbone.hf.model.language_model.layers) == 0
    embeddings = whole.backbone.hf.model.language_model.embed_tokens.state_dict()
    model.backbone.hf.model.language_model.embed_tokens.load_state_dict(embeddings)
    for part in ("vision_tower", "multi_modal_projector"):
        getattr(model.backbone.hf.model, part).load_state_dict(getattr(whole.backbone.hf.model, part).state_dict())
    assert torch.equal(model.route(batch, model.see(batch)), whole.route(batch, whole.see(batch)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "lama"}, "a config of model_type lama cannot be made: Unrecognized model identifier: lama$"),
        ({"model_type": "gpt2"}, "llm: model_type gpt2 is none that is known to work .* choose one of gemma2, "),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "llm: use_bidirectional_attention lets"),
        ({"model_type": "llama", "hidden_size": "wide"}, "a config of model_type llama cannot be made: .*hidden_size"),
    ],
)
def test_what_cannot_work_is_refused_as_soon_as_it_is_read(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message), torch.device("meta"):
        Backbone(dict(VISION), llm("llama2") | changes)


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        ("nonsense", "attention: nonsense is none .* choose one of sdpa, eager, flash_attention_2"),
        ("flex_attention", "attention: flex_attention is none"),
        ("flash_attention_2", "attention: flash_attention_2 needs the package flash_attn, which is not installed"),
    ],
)
def test_an_attention_that_there_is_not_is_refused(attention: str, message: str) -> None:
    with pytest.raises(UserError, match=message), torch.device("meta"):
        Backbone(dict(VISION), llm("llama2"), attention=attention)


def test_an_attention_that_cannot_keep_questions_apart_is_given_none(batch: Batch) -> None:
    model = model_of("llama2")
    model.backbone.hf.model.language_model.set_attn_implementation("sdpa")  # for one that takes no packed rows
    with pytest.raises(UserError, match="attention: sdpa cannot keep the questions of a row apart"):
        model.answer_tokens_at(batch, model.see(batch), 0)


def test_a_cap_on_the_logits_is_left_out_and_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with torch.device("meta"):
        backbone = Backbone(dict(VISION), llm("gemma2"))
    assert backbone.llm_config.to_dict()["final_logit_softcapping"] is None
    assert "the cap of 3.0 on the logits (final_logit_softcapping) is left out" in caplog.text
