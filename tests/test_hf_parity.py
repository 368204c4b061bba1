"""At the finest granularity the model *is* LLaVA-NeXT: transformers' own forward pass, on its own inputs, agrees."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlavaNextForConditionalGeneration

from lit_avg.batch import IGNORED_LABEL, Batch
from lit_avg.llava_next.backbone import Backbone, FeatureSelection
from lit_avg.llava_next.llm_input import separate_questions, visual_token_counts
from lit_avg.model import AvgLlava
from tests.close import SHARE, assert_close, gradient_share
from tests.llava_next import ENCODERS, LLMS, TILE, Asked, Theirs, backbone, model, ours_and_theirs, twin

LARGEST = {"logits": 0.0, "loss": 0.0, "gradient": 0.0}
"""The largest differences that were seen as shares of a tensor's largest entry, for the summary of the session."""


@pytest.fixture(autouse=True)
def told_in_the_summary(record_property: Callable[[str, object], None]) -> Iterator[None]:
    yield
    for name, value in LARGEST.items():
        record_property(f"{name} against transformers", value)


sides = st.one_of(st.sampled_from([1, 3, 16, 700]), st.integers(1, 120))
rounds = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=2)
samples = st.builds(
    Asked,
    image=st.none() | st.tuples(sides, sides),
    questions=st.lists(rounds, min_size=1, max_size=2),
)


def differ(name: str, ours: Tensor, theirs: Tensor, largest_of_all: float = 0.0) -> None:
    """Hold two results against each other, and remember by how much they differ."""
    difference = SHARE * gradient_share(ours, theirs, largest_of_all)
    LARGEST[name] = max(LARGEST[name], difference)
    assert difference <= SHARE, f"{name}: {difference:.1e}"


def gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    """Of every parameter; where none arrived it is zero."""
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in module.named_parameters()
    }


def our_results(ours: AvgLlava, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Logits at the positions that predict an answer token, loss, gradients."""
    seen: list[Tensor] = []
    hook = ours.backbone.hf.lm_head.register_forward_hook(lambda *call: seen.append(call[-1]))
    ours.zero_grad()
    loss = -ours.answer_tokens_at(batch, ours.encode_levels(batch), len(ours.granularities) - 1).log_prob.mean()
    loss.backward()
    hook.remove()
    (logits,) = seen
    return logits.detach(), loss.detach(), gradients(ours.backbone.hf)


def their_results(
    hf: LlavaNextForConditionalGeneration, theirs: Theirs, side: str
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    labels = theirs.padded_labels(side)
    hf.zero_grad()
    out = hf(**theirs.padded(side), labels=labels)
    out.loss.backward()
    row, column = (labels != IGNORED_LABEL).nonzero(as_tuple=True)
    return out.logits[row, column - 1].detach(), out.loss.detach(), gradients(hf)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("llm", LLMS)
@settings(deadline=None, max_examples=20)
@given(
    asked=st.lists(samples, min_size=1, max_size=3),
    layer=st.sampled_from([-2, -1]),
    tied=st.booleans(),
    side=st.sampled_from(["right", "left"]),
    seed=st.integers(0, 2**16),
)
def test_logits_loss_and_every_gradient_equal_those_of_transformers(
    encoder: str, llm: str, asked: list[Asked], layer: int, tied: bool, side: str, seed: int
) -> None:
    ours = model(encoder, llm, layer, seed, tie_word_embeddings=tied)
    hf = twin(ours)
    batch, theirs = ours_and_theirs(asked, hf)
    logits, loss, gradient = our_results(ours, batch)
    their_logits, their_loss, their_gradient = their_results(hf, theirs, side)
    differ("logits", logits, their_logits)
    differ("loss", loss, their_loss)
    assert gradient.keys() == their_gradient.keys()
    assert any(value.abs().max() > 0.01 for value in gradient.values()), "a comparison of zeros says nothing"
    largest = max(float(value.abs().max()) for value in their_gradient.values())
    for name in gradient:
        differ("gradient", gradient[name], their_gradient[name], largest)


@pytest.mark.parametrize(
    ("encoder", "selection", "layer"), [("clip_vision_model", "default", -1), ("siglip_vision_model", "full", -2)]
)
def test_a_whole_llava_next_is_taken_over_as_it_was_saved(
    encoder: str, selection: str, layer: int, tmp_path: Path
) -> None:
    made = model(encoder, "qwen2", layer)
    twin(made).save_pretrained(tmp_path)
    loaded = Backbone(pretrained=str(tmp_path))
    batch, _ = ours_and_theirs([Asked((40, 20), [[(3, 2)]])], twin(made))
    assert torch.equal(loaded.encode(batch.pixel_values), made.backbone.encode(batch.pixel_values))
    assert loaded.hf.config.vision_feature_select_strategy == selection
    assert loaded.hf.config.vision_feature_layer == layer


def test_the_selection_of_features_can_be_said_outright() -> None:
    def encoded(selection: FeatureSelection) -> Tensor:
        torch.manual_seed(0)
        return backbone("clip_vision_model", "llama", selection=selection).encode(torch.ones(1, 3, TILE, TILE))

    without_cls, whole = encoded("default"), encoded("full")
    assert (without_cls.shape[1], whole.shape[1]) == (16, 17)
    assert_close(whole[:, 1:], without_cls)


@pytest.mark.parametrize("packed", [True, False])
def test_a_sliding_window_is_kept_to_in_a_row_of_one_question_and_of_several(packed: bool) -> None:
    ours = model("clip_vision_model", "mistral", sliding_window=8)
    hf = twin(ours)
    batch, theirs = ours_and_theirs([Asked((40, 20), [[(3, 2)], [(4, 1)]])], hf)
    assert int(visual_token_counts(batch, ours.layout)[0, -1]) > 8
    _, loss, _ = our_results(ours, batch if packed else separate_questions(batch))
    _, expected, _ = their_results(hf, theirs, "right")
    assert_close(loss, expected)
