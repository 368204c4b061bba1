"""Packed rows score as padded ones do, and nothing is computed for nobody."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lit_avg.batch import Batch
from lit_avg.llava_next import answer_logprobs as answer_scores
from lit_avg.llava_next.answer_logprobs import score
from lit_avg.llava_next.backbone import Backbone
from lit_avg.llava_next.llm_input import LlmInput, llm_input, separate_questions
from lit_avg.llava_next.packed_attention import PACKED_ATTENTION, PackedRows, packed_rows
from lit_avg.llava_next.vision_encoder import hidden_state
from lit_avg.model import AvgLlava
from tests.tiny import make_batch, tiny_backbone, tiny_model

GRIDS = [((1, 2), (32, 64)), ((2, 1), (60, 20)), ((2, 2), (64, 64)), ((0, 0), (32, 32))]


def read_at(model: AvgLlava, batch: Batch, level: int, attention: str) -> tuple[Tensor, list[Tensor]]:
    """Log-probs and gradients of the LLM and the tiles' tokens."""
    model.zero_grad()
    model.backbone.hf.model.language_model.set_attn_implementation(attention)
    answers = model.answer_tokens_at(batch, model.encode_levels(batch), level)
    answers.log_prob.sum().backward()
    return answers.log_prob.detach(), [p.grad.clone() for p in model.backbone.parameters() if p.grad is not None]


questions = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=3)


@given(st.lists(st.tuples(questions, st.integers(-1, 3)), min_size=1, max_size=4), st.integers(0, 4))
@settings(max_examples=12, deadline=None)
def test_packed_rows_have_the_log_probs_and_gradients_of_padded_ones(
    rows: list[tuple[list[tuple[int, int]], int]], level: int
) -> None:
    model, batch = tiny_model(), make_batch(rows, GRIDS)
    packed, gradients = read_at(model, batch, level, PACKED_ATTENTION["sdpa"])
    padded, expected = read_at(model, separate_questions(batch), level, "sdpa")  # a row each: it knows of no others
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=1e-5)
    assert len(gradients) == len(expected)
    for found, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)


def laid_out(model: AvgLlava, batch: Batch) -> tuple[LlmInput, PackedRows]:
    rows = llm_input(batch, [4] * len(batch.input_ids), model.layout)
    return rows, packed_rows(rows, last_layer=1)


def test_the_llm_reads_every_token_once_and_no_padding(model: AvgLlava, batch: Batch) -> None:
    rows, packed = laid_out(model, batch)
    assert sorted(packed.tokens.tolist()) == (rows.question >= -1).flatten().nonzero().flatten().tolist()
    seen = list[torch.Size]()
    model.backbone.hf.model.language_model.layers[0].register_forward_pre_hook(lambda _, x: seen.append(x[0].shape))
    model.answer_tokens_at(batch, model.encode_levels(batch), 4)
    assert seen == [(1, len(packed.tokens), 24)]


def test_the_last_layer_is_computed_where_an_answer_is_predicted(model: AvgLlava, batch: Batch) -> None:
    _, packed = laid_out(model, batch)
    assert len(packed.read) == 2 + 1 + 3 + 2 + 2  # answer tokens of the five questions
    seen = dict[str, int]()
    last = model.backbone.hf.model.language_model.layers[1]
    for name in ("mlp.up_proj", "self_attn.q_proj", "self_attn.o_proj", "self_attn.k_proj"):
        module = last.get_submodule(name)
        # of the output, as the hooks that leave tokens out come after this one
        module.register_forward_hook(lambda _, x, __, name=name: seen.__setitem__(name, x[0].shape[1]))
    model.answer_tokens_at(batch, model.encode_levels(batch), 4)
    assert seen.pop("self_attn.k_proj") == len(packed.tokens)
    assert set(seen.values()) == {len(packed.read)}


def test_recomputation_in_the_backward_pass_leaves_the_gradients(batch: Batch) -> None:
    def gradients(recompute: bool) -> list[Tensor]:
        model = tiny_model()
        model.backbone = tiny_backbone(gradient_checkpointing=recompute)
        model.train()
        model.answer_tokens_at(batch, model.encode_levels(batch), 3).log_prob.sum().backward()
        return [p.grad for p in model.backbone.parameters() if p.grad is not None]

    torch.testing.assert_close(gradients(True), gradients(False), atol=2e-5, rtol=1e-4)


def test_the_lm_head_sees_a_few_answer_tokens_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    head, hidden, tokens = nn.Linear(4, 9), torch.randn(10, 4, requires_grad=True), torch.randint(9, (10,))
    whole, best = score(head, hidden, tokens)
    (expected,) = torch.autograd.grad(whole.sum(), hidden)
    monkeypatch.setattr(answer_scores, "CHUNK", 4)
    seen = list[int]()
    head.register_forward_pre_hook(lambda _, x: seen.append(len(x[0])))
    log_probs, likely = score(head, hidden, tokens)
    assert seen == [4, 4, 2]
    torch.testing.assert_close(torch.autograd.grad(log_probs.sum(), hidden)[0], expected)
    torch.testing.assert_close(log_probs, whole)
    assert torch.equal(likely, best)


def test_a_sharded_lm_head_is_called_once_whatever_the_number_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    head, hidden, tokens = nn.Linear(4, 9), torch.randn(10, 4, requires_grad=True), torch.randint(9, (10,))
    whole, best = score(head, hidden, tokens)
    expected = torch.autograd.grad(whole.sum(), [hidden, *head.parameters()])
    monkeypatch.setattr(answer_scores, "CHUNK", 4)
    monkeypatch.setattr(answer_scores, "is_sharded", lambda _: True)
    seen = list[int]()
    head.register_forward_pre_hook(lambda _, x: seen.append(len(x[0])))
    log_probs, likely = score(head, hidden, tokens)
    assert seen == [10]
    torch.testing.assert_close(torch.autograd.grad(log_probs.sum(), [hidden, *head.parameters()]), expected)
    torch.testing.assert_close(log_probs, whole)
    assert torch.equal(likely, best)
    assert head(hidden).shape == (10, 9)  # a head as before


@pytest.mark.parametrize(("index", "layers"), [(-1, 2), (-2, 1), (1, 1), (2, 2), (0, 2), (-3, 2)])
def test_a_hidden_state_is_transformers_own_and_no_layer_behind_it_runs(index: int, layers: int) -> None:
    encoder, pixels = tiny_backbone().hf.model.vision_tower.eval(), torch.randn(2, 3, 32, 32)
    expected = encoder(pixels, output_hidden_states=True).hidden_states[index]
    ran = list[int]()
    for place, layer in enumerate(encoder.encoder.layers):
        layer.register_forward_pre_hook(lambda *_, place=place: ran.append(place))
    assert torch.equal(hidden_state(encoder, pixels, index), expected)
    assert len(encoder.encoder.layers) == 2
    assert ran == list(range(layers))  # what goes into the first layer is nobody's aim: there all run


def test_a_sliding_window_shorter_than_a_row_is_still_kept() -> None:
    llm = {"model_type": "mistral", "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2}
    llm |= {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 50, "sliding_window": 8}
    vision = {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 8, "projection_dim": 16}
    torch.manual_seed(0)
    model = tiny_model()
    model.backbone = Backbone(vision, llm).eval()
    batch = make_batch([([(5, 3)], 0), ([(3, 2)], -1)], GRIDS)
    found = model.answer_tokens_at(batch, model.encode_levels(batch), 4).log_prob
    model.backbone.hf.model.language_model.set_attn_implementation("sdpa")
    torch.testing.assert_close(model.answer_tokens_at(batch, model.encode_levels(batch), 4).log_prob, found)
    model.backbone.hf.model.language_model.config.sliding_window = None
    assert not torch.allclose(model.answer_tokens_at(batch, model.encode_levels(batch), 4).log_prob, found)
