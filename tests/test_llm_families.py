"""Every LLM that may be one here computes, packed or not, what transformers' LLaVA-NeXT computes with it."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from lit_avg.batch import PADDING, Batch
from lit_avg.commands.export import PROMPT, fixed_image, grow_vocabulary, in_full_precision, own_log_probs
from lit_avg.llava_next.backbone import Backbone
from lit_avg.llava_next.flops import llm_forward_flops
from lit_avg.llava_next.hf_model import without_llm
from lit_avg.llava_next.llm_configs import LLM_TYPES, LlmShape
from lit_avg.llava_next.llm_input import llm_input, separate_questions
from lit_avg.model import AvgLlava
from lit_avg.pretrained.folder import made_in
from lit_avg.routing.policies import FixedPolicy
from lit_avg.routing.router import GranularityRouter
from lit_avg.utils.errors import UserError
from lit_avg.visual_tokens.granularity import Granularities
from tests.ask_transformers import ask
from tests.drawn import drawn_shards
from tests.llms import LLMS, WINDOW, llm
from tests.tiny import LEVELS, TILE
from tests.whole_way import Variant, asked_of_transformers, go_the_whole_way, result

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
    embeddings = model.embeddings(apart, model.encode_levels(apart), levels, rows)
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
    found = model.answer_tokens_at(batch, model.encode_levels(batch), FINEST).log_prob
    assert int((llm_input(batch, [FINEST] * 3, model.layout).question != PADDING).sum(dim=1).max()) > 4 * WINDOW
    expected = by_transformers(model, batch)
    assert len(found) == len(expected) == 2 + 1 + 3 + 2 + 2
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", LLMS)
def test_recomputing_layers_leaves_the_gradients(family: str, batch: Batch) -> None:
    def gradients(recompute: bool) -> list[Tensor]:
        model = model_of(family, gradient_checkpointing=recompute)
        model.train()
        model.answer_tokens_at(batch, model.encode_levels(batch), 2).log_prob.sum().backward()
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
    assert torch.equal(model.route(batch, model.encode_levels(batch)), whole.route(batch, whole.encode_levels(batch)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "lama"}, "a config of model_type lama cannot be made: Unrecognized model identifier: lama$"),
        ({"model_type": "gpt2"}, "llm: model_type gpt2 is none that is known to work .* choose one of gemma2, "),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "llm: use_bidirectional_attention lets"),
        (
            {"num_attention_heads": 4, "num_key_value_heads": 3},
            "num_attention_heads is 4, no multiple of num_key_value",
        ),
        (
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
            "rope_type dynamic makes a token's place depend on",
        ),
        ({"rope_scaling": {"rope_type": "magic"}}, "the backbone's configs describe no model: KeyError: 'magic'"),
        ({"pad_token_id": 50}, "the backbone's configs describe no model: .*Padding_idx must be within num_embeddings"),
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
        model.answer_tokens_at(batch, model.encode_levels(batch), 0)


def test_a_cap_on_the_logits_is_left_out_and_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with torch.device("meta"):
        backbone = Backbone(dict(VISION), llm("gemma2"))
    assert backbone.llm_config.to_dict()["final_logit_softcapping"] is None
    assert "the cap of 3.0 on the logits (final_logit_softcapping) is left out" in caplog.text


QUICK = {
    "gemma2": Variant("qwen2", room=0, pad_is_end=True),
    "stablelm": Variant("vicuna", room=0, precision="bf16-true"),
}
"""The families that go the whole way in a mere `pytest`."""

OTHERS = {
    "qwen3": Variant("llama3", room=8, attention="eager"),
    "llama2": Variant("vicuna", room=0, pad_is_end=True, precision="64-true"),
    "llama3": Variant("llama3", room=0, precision="bf16-mixed"),
    "llama3.2": Variant("llama3", room=0, precision="bf16-true", attention="eager"),
    "vicuna": Variant("vicuna", room=0, pack_questions=False),
    "mistral": Variant("vicuna", room=8, pad_is_end=True, precision="bf16-mixed", attention="eager"),
    "mistral v0.3": Variant("qwen2", room=0, precision="bf16-true"),
    "qwen2": Variant("qwen2", room=8, pad_is_end=True, precision="bf16-true", pack_questions=False),
    "qwen2 window": Variant("qwen2", room=0, precision="64-true", attention="eager"),
    "qwen2.5": Variant("qwen2", room=8),
    "phi3": Variant("llama3", room=8, pad_is_end=True, precision="64-true"),
    "gemma3": Variant("vicuna", room=0, precision="bf16-mixed"),
    "olmo2": Variant("llama3", room=0, pad_is_end=True),
    "stablelm parallel": Variant("qwen2", room=8, precision="bf16-mixed", pack_questions=False),
    "smollm2": Variant("vicuna", room=0, pad_is_end=True, precision="bf16-true"),
    "smollm3": Variant("llama3", room=0, precision="64-true", pack_questions=False),
}

WAYS = [*QUICK.items(), *(pytest.param(*way, marks=pytest.mark.slow) for way in OTHERS.items())]


def test_every_family_goes_the_whole_way() -> None:
    assert {*QUICK, *OTHERS} == set(LLMS)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn_shards(tmp_path_factory.mktemp("drawn"), 10, rounds=2)


@pytest.mark.parametrize(("family", "variant"), WAYS, ids=[*QUICK, *OTHERS])
def test_a_family_goes_from_shards_to_plain_transformers(
    family: str, variant: Variant, shards: Path, tmp_path: Path
) -> None:
    folder = go_the_whole_way(tmp_path, family, variant, shards)
    measured = result(tmp_path / "stage4")["metrics"]
    assert 0 < measured["router/llm_flops_share"] <= 1
    ours = AvgLlava.from_pretrained(folder)
    alone = family in ("qwen3", "llama3")  # a process of its own costs seconds
    theirs = asked_of_transformers(folder) if alone else ask(str(folder), fixed_image(), PROMPT)
    prompt = ours.prompt_encoder([fixed_image()], [PROMPT])  # pyright: ignore[reportOptionalCall]
    behind = prompt.input_ids[0][prompt.question[0] >= 0]
    of_tokens = theirs["log_probs"][: len(behind)].gather(1, behind.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(in_full_precision(ours, own_log_probs), of_tokens, atol=1e-5, rtol=1e-5)
    ours.to(torch.promote_types(ours.backbone.image_newline.dtype, torch.float32))
    answer = ours.generate([fixed_image()], [PROMPT], FixedPolicy(ours.granularities.finest), max_new_tokens=6).texts[0]
    assert answer == ours.prompt_encoder.decode(theirs["greedy"])  # pyright: ignore[reportOptionalMemberAccess]
    if not variant.room:
        grown = theirs["log_probs"].shape[1] - 1
        assert grown not in theirs["sampled"]
        assert theirs["log_probs"][:, grown].exp().max() <= 1 / grown


@pytest.mark.parametrize("family", ["llama3", "qwen2.5", "gemma2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_new_rows_never_win(family: str, dtype: torch.dtype) -> None:
    hf = model_of(family).to(dtype).backbone.hf
    hf.generation_config.suppress_tokens = [7]
    grow_vocabulary(hf, 64)  # as with several new tokens, or to a multiple
    assert hf.config.text_config.vocab_size == 64  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
    assert hf.generation_config.suppress_tokens == [7, *range(50, 64)]
    logits = hf.lm_head(torch.randn(5000, 24, generator=torch.Generator().manual_seed(0)).to(dtype)).float()
    assert int(logits.argmax(dim=1).max()) < 50
    # exp is convex: the exponential of a mean is at most the mean of exponentials
    assert float(logits.softmax(dim=1)[:, 50:].max()) <= 1 / 50
    answers = hf.generate(inputs_embeds=torch.randn(4, 5, 24).to(dtype), do_sample=True, top_k=0, max_new_tokens=40)
    assert int(answers.max()) < 50


@pytest.mark.parametrize("model_type", ["siglip2_vision_model", "dinov2", "clip"])
def test_an_encoder_that_cannot_be_read_is_refused(model_type: str) -> None:
    message = f"vision_encoder: model_type {model_type} is none that can be read here; choose one of clip_vision_model"
    with pytest.raises(UserError, match=message), torch.device("meta"):
        Backbone(VISION | {"model_type": model_type}, llm("llama2"))


def test_positions_that_would_change_with_the_batch_are_refused(batch: Batch) -> None:
    longrope = {"rope_type": "longrope", "short_factor": [1.0] * 6, "long_factor": [4.0] * 6}
    longrope |= {"original_max_position_embeddings": 40}
    torch.manual_seed(0)
    model = model_of("llama2")
    model.backbone = Backbone(dict(VISION), llm("llama2", rope_scaling=longrope)).eval()
    with pytest.raises(UserError, match="a batch has sequences of 7 to 63 tokens, and beyond 40 the llm's longrope"):
        model.answer_tokens_at(batch, model.encode_levels(batch), FINEST)
    assert len(model.answer_tokens_at(batch, model.encode_levels(batch), 0).log_prob) == 10  # here all are short
    with pytest.raises(UserError, match="a batch has sequences of 9 to 41 tokens"):
        model.backbone.generate([torch.randn(9, 24), torch.randn(41, 24)], 100)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_theta": 500000.0}, "rope_parameters is .*500000.0.* there, but .*10000.0.* in this config"),
        ({"rms_norm_eps": 1e-3}, "rms_norm_eps is 0.001 there, but 1e-06 in this config; write its value into"),
    ],
)
def test_weights_are_not_computed_with_in_another_way_than_they_were_trained(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**llm("llama2") | changes)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=message):
        Backbone(dict(VISION), llm("llama2")).load_part("llm", str(tmp_path))


def test_an_lm_head_of_its_own_is_not_put_into_tied_embeddings(tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**llm("llama2"))).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"has an LM head of its own, .* set tie_word_embeddings: false"):
        Backbone(dict(VISION), llm("llama2", tie_word_embeddings=True)).load_part("llm", str(tmp_path))


@pytest.mark.parametrize("family", LLMS)
def test_positions_stay_exact_in_any_precision(family: str) -> None:
    backbone = model_of(family).backbone
    exact = {name: buffer.clone() for name, buffer in backbone.named_buffers() if name.endswith("inv_freq")}
    assert exact
    for dtype in (torch.bfloat16, torch.double, torch.float32):
        backbone.to(dtype)
        assert backbone.image_newline.dtype == dtype
        assert all(torch.equal(buffer, exact[name]) for name, buffer in backbone.named_buffers() if name in exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_whole_model_is_taken_in_the_precision_of_the_run(dtype: torch.dtype, tmp_path: Path) -> None:
    model_of("qwen2").backbone.hf.to(torch.bfloat16).save_pretrained(tmp_path)  # pyright: ignore[reportArgumentType]  its stub has a decorator's type
    with made_in(dtype):  # as Lightning does
        backbone = Backbone(pretrained=str(tmp_path))
    assert {parameter.dtype for parameter in backbone.parameters()} == {dtype}
