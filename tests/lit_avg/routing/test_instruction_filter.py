import pytest
import torch
from torch.nn import functional as F

from lit_avg.routing.instruction_filter import InstructionFilter
from lit_avg.utils.errors import UserError


def test_the_score_is_the_mean_of_the_full_cosine_matrix() -> None:
    instruction, visual = torch.randn(2, 7, 5), torch.randn(2, 11, 5)
    full = F.cosine_similarity(instruction.unsqueeze(2), visual.unsqueeze(1), dim=3).mean(dim=2)
    torch.testing.assert_close(InstructionFilter.similarity(instruction, visual), full)


def test_the_most_similar_tokens_are_kept_best_first() -> None:
    visual = torch.tensor([[[1.0, 0.0], [2.0, 0.0]]])
    instruction = torch.tensor([[[0.0, 1.0], [3.0, 0.0], [1.0, 1.0]]])
    kept = InstructionFilter(2)(instruction, torch.ones(1, 3, dtype=torch.bool), visual)
    assert kept.embeddings.tolist() == [[[3.0, 0.0], [1.0, 1.0]]]


def test_an_invalid_token_never_fills_a_slot_however_similar_it_is() -> None:
    visual = torch.tensor([[[1.0, 0.0]]])
    instruction = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    kept = InstructionFilter(3)(instruction, torch.tensor([[False, True]]), visual)
    assert kept.valid.tolist() == [[True, False, False]]
    assert kept.embeddings[0].tolist() == [[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]


def test_k_of_0_hears_nothing() -> None:
    kept = InstructionFilter(0)(torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.bool), torch.randn(2, 5, 4))
    assert kept.embeddings.shape == (2, 0, 4)


def test_a_negative_k_is_refused() -> None:
    with pytest.raises(UserError, match="k = -1"):
        InstructionFilter(-1)
