"""Answers are generated as transformers generates them; what rows share a batch with makes no difference."""

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig, LlavaNextForConditionalGeneration, MaxLengthCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from lit_avg.batch import IGNORED_LABEL, PREFIX, Batch
from lit_avg.llava_next.generation import Generation
from lit_avg.llava_next.llm_input import separate_questions, without_last_answers
from lit_avg.model import AvgLlava
from lit_avg.utils.errors import UserError
from tests.llava_next import ENCODERS, END, LLMS, Asked, Theirs, model, ours_and_theirs, twin

SAMPLES = [
    Asked((40, 20), [[(3, 2)], [(4, 1)]]),
    Asked((9, 70), [[(2, 2), (5, 3)]]),  # a dialogue, continued at its second answer
    Asked(None, [[(6, 1)]]),
    Asked((33, 31), [[(1, 1)]]),
]
QUESTIONS = 5
MIXED = [3, 1, 4, 0, 2]


def finest(questions: int) -> list[int]:
    return [4] * questions


def theirs_generated(hf: LlavaNextForConditionalGeneration, theirs: Theirs, **settings: object) -> Tensor:
    """New tokens of transformers' own `generate`, padded on the left as it must be."""
    inputs = theirs.prompts().padded("left")
    assert inputs["input_ids"] is not None
    generate = cast(Callable[..., Tensor], hf.generate)  # pyright: ignore[reportAttributeAccessIssue]  transformers' mixin
    return generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :]


def alone(batch: Batch, question: int) -> Batch:
    """One question of a batch of separate questions, its padding and its batch mates' images gone."""
    row = batch.question[question]
    there = (row == PREFIX) | (row == question)
    image = int(batch.image_of_row[question])
    begin, kept = sum(batch.tiles[: max(image, 0)]), [image] if image >= 0 else []
    tiles = sum(batch.tiles[one] for one in kept)
    return Batch(
        input_ids=batch.input_ids[question][there].unsqueeze(0),
        labels=batch.labels[question][there].unsqueeze(0),
        question=row[there].clamp(max=0).unsqueeze(0),
        instruction=batch.instruction[question][there].unsqueeze(0),
        image_of_row=torch.tensor([0 if kept else -1]),
        pixel_values=batch.pixel_values[begin : begin + tiles],
        tile_grids=[batch.tile_grids[one] for one in kept],
        image_sizes=batch.image_sizes[kept],
        keys=[batch.keys[question]],
        kinds=[batch.kinds[question]],
        answers=[batch.answers[question]],
    )


class Listener(BaseStreamer):
    """Keeps what it is handed."""

    def __init__(self) -> None:
        self.heard: list[Tensor] = []
        self.ended = False

    def put(self, value: Tensor) -> None:
        self.heard.append(value.clone())

    def end(self) -> None:
        self.ended = True


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("llm", LLMS)
def test_greedy_answers_at_the_finest_level_are_those_of_transformers(encoder: str, llm: str) -> None:
    ours = model(encoder, llm, eos_token_id=None)  # so that every row has all its twelve tokens
    hf = twin(ours)
    batch, theirs = ours_and_theirs(SAMPLES, hf)
    expected = theirs_generated(hf, theirs, max_new_tokens=12, do_sample=False)
    assert expected.shape == (QUESTIONS, 12)
    assert len(expected.unique()) > 5, "a model that repeats one token proves nothing"
    assert torch.equal(ours.generate_ids(batch, finest(QUESTIONS), max_new_tokens=12), expected)


@pytest.mark.parametrize("levels", [*([level] * QUESTIONS for level in range(5)), MIXED], ids=str)
def test_a_batch_answers_as_its_questions_do_one_by_one_whichever_their_levels(levels: list[int]) -> None:
    ours = model("clip_vision_model", "llama", eos_token_id=None)
    batch, _ = ours_and_theirs(SAMPLES, twin(ours))
    together, separate = ours.generate_ids(batch, levels, max_new_tokens=6), separate_questions(batch)
    for question, level in enumerate(levels):
        assert torch.equal(
            ours.generate_ids(alone(separate, question), [level], max_new_tokens=6)[0], together[question]
        )


def test_the_level_of_a_question_changes_its_own_answer_alone() -> None:
    ours = model("clip_vision_model", "llama", eos_token_id=None)
    batch, _ = ours_and_theirs(SAMPLES, twin(ours))
    fine, mixed = (
        ours.generate_ids(batch, levels, max_new_tokens=12) for levels in (finest(QUESTIONS), [4, 4, 0, 4, 4])
    )
    assert (fine != mixed).any(dim=1).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize(
    "config",
    [
        GenerationConfig(do_sample=True, temperature=1.3),
        GenerationConfig(do_sample=True, top_k=5),
        GenerationConfig(do_sample=True, top_p=0.7, temperature=0.8),
        GenerationConfig(do_sample=False, num_beams=3),
    ],
    ids=["temperature", "top-k", "top-p", "beams"],
)
def test_sampling_gives_what_transformers_gives_from_the_same_seed(config: GenerationConfig) -> None:
    ours = model("clip_vision_model", "llama")
    hf = twin(ours)
    batch, theirs = ours_and_theirs(SAMPLES, hf)
    torch.manual_seed(7)
    expected = theirs_generated(hf, theirs, generation_config=config, max_new_tokens=10)
    torch.manual_seed(7)
    sampled = ours.generate_ids(batch, finest(QUESTIONS), 10, Generation(config))
    assert torch.equal(sampled, expected)
    assert not torch.equal(sampled, ours.generate_ids(batch, finest(QUESTIONS), 10))


def test_the_settings_that_were_handed_in_stay_as_they_were() -> None:
    ours, config = model("clip_vision_model", "llama"), GenerationConfig(do_sample=True)
    before = config.to_dict()
    batch, _ = ours_and_theirs(SAMPLES, twin(ours))
    ours.generate_ids(batch, finest(QUESTIONS), 2, Generation(config))
    assert config.to_dict() == before


def greedy_without_end(batch: Batch) -> Tensor:
    return model("clip_vision_model", "llama", eos_token_id=None).generate_ids(
        batch, finest(QUESTIONS), max_new_tokens=8
    )


def ended(free: Tensor, ends: list[int], filling: int) -> Tensor:
    """What is left of rows that were generated freely if they end after the first of some tokens."""
    ending = torch.isin(free, torch.tensor(ends)).long()
    over = ending.cumsum(dim=1) - ending > 0
    longest = int((~over).sum(dim=1).max())
    return free.masked_fill(over, filling)[:, :longest]


@pytest.mark.parametrize("from_llm_config", [True, False])
def test_each_of_several_end_tokens_ends_its_row_and_the_first_fills_it_up(from_llm_config: bool) -> None:
    batch, _ = ours_and_theirs(SAMPLES, twin(model("clip_vision_model", "llama")))
    free = greedy_without_end(batch)
    ends = [int(free[0, 1]), int(free[1, 3])]
    if from_llm_config:
        ours = model("clip_vision_model", "llama", eos_token_id=ends)
        assert ours.backbone.end_tokens == ends
        generated = ours.generate_ids(batch, finest(QUESTIONS), max_new_tokens=8)
    else:
        ours = model("clip_vision_model", "llama")
        assert ours.backbone.end_tokens == [END]
        generation = Generation(GenerationConfig(do_sample=False, eos_token_id=ends))
        generated = ours.generate_ids(batch, finest(QUESTIONS), 8, generation)
    expected = ended(free, ends, filling=ends[0])
    assert (expected != free[:, : expected.shape[1]]).any()
    assert torch.equal(generated, expected)


def test_the_models_generation_config_says_what_ends_an_answer() -> None:
    ours = model("clip_vision_model", "llama")
    batch, _ = ours_and_theirs(SAMPLES, twin(ours))
    free = greedy_without_end(batch)
    ours.backbone.hf.generation_config.eos_token_id = end = int(free[0, 2])  # as a generation_config.json would
    assert torch.equal(ours.generate_ids(batch, finest(QUESTIONS), 8), ended(free, [end], filling=end))


def test_a_model_without_an_end_token_has_none() -> None:
    assert model("clip_vision_model", "qwen2", eos_token_id=None).backbone.end_tokens == []


def test_stopping_criteria_are_asked() -> None:
    ours = model("clip_vision_model", "llama", eos_token_id=None)
    batch, _ = ours_and_theirs(SAMPLES, twin(ours))
    generation = Generation(stopping_criteria=StoppingCriteriaList([MaxLengthCriteria(max_length=3)]))
    stopped = ours.generate_ids(batch, finest(QUESTIONS), 8, generation)
    assert torch.equal(stopped, greedy_without_end(batch)[:, :3])


def test_a_streamer_is_handed_every_token_as_it_comes() -> None:
    ours, listener = model("clip_vision_model", "llama", eos_token_id=None), Listener()
    batch, _ = ours_and_theirs(SAMPLES, twin(ours))
    generated = ours.generate_ids(batch, MIXED, 5, Generation(streamer=listener))
    prompt, *tokens = listener.heard
    assert prompt.numel() == 0
    assert torch.equal(torch.stack(tokens, dim=1), generated)
    assert listener.ended


def test_several_answers_to_one_question_are_refused() -> None:
    ours = model("clip_vision_model", "llama")
    batch, _ = ours_and_theirs(SAMPLES, twin(ours))
    generation = Generation(GenerationConfig(do_sample=True, num_return_sequences=2))
    with pytest.raises(UserError, match="num_return_sequences is 2, but a question gets one answer"):
        ours.generate_ids(batch, finest(QUESTIONS), 3, generation)


def test_prompts_without_labels_are_answered_as_the_same_questions_with_answers_are() -> None:
    ours = model("clip_vision_model", "llama", eos_token_id=None)
    batch, _ = ours_and_theirs(SAMPLES, twin(ours))
    cut = without_last_answers(separate_questions(batch))
    prompts = replace(cut, labels=torch.full_like(cut.labels, IGNORED_LABEL))
    assert (cut.labels != IGNORED_LABEL).any(), "the dialogue's first answer is part of its prompt"
    assert torch.equal(ours.generate_ids(prompts, MIXED, 5), ours.generate_ids(batch, MIXED, 5))
    assert torch.equal(ours.route(prompts, ours.encode_levels(prompts)), ours.route(batch, ours.encode_levels(batch)))


def test_one_pass_of_the_encoder_is_enough_to_route_and_answer() -> None:
    ours = model("clip_vision_model", "llama")
    batch, _ = ours_and_theirs(SAMPLES, twin(ours))
    passes: list[AvgLlava] = []
    ours.backbone.hf.model.vision_tower.register_forward_hook(lambda *_: passes.append(ours))
    levels = ours.encode_levels(batch)
    chosen = ours.route(batch, levels).argmax(dim=1).tolist()
    with_levels = ours.generate_ids(batch, chosen, 4, levels=levels)
    assert len(passes) == 1
    assert torch.equal(ours.generate_ids(batch, chosen, 4), with_levels)
    assert len(passes) == 2
