import pytest
import torch
from torch import nn

from lit_avg.routing.instruction_filter import InstructionTokens
from lit_avg.routing.router import GranularityRouter
from lit_avg.semantics import Attention
from lit_avg.utils.errors import UserError
from lit_avg.visual_tokens.granularity import Granularities
from lit_avg.visual_tokens.scaler import GranularityScaler

GRANULARITIES = Granularities((1, 2, 4))
WIDTH = 8


def make_router(slots: int = 3) -> GranularityRouter:
    torch.manual_seed(0)
    return GranularityRouter(GRANULARITIES, WIDTH, instruction_tokens=slots, heads=2, dropout=0.0).eval()


def levels(tiles: int) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(tiles, tokens, WIDTH) for tokens in GRANULARITIES.tokens]


def plain_layer(router: GranularityRouter) -> nn.TransformerEncoderLayer:
    """torch's own, with the router's weights."""
    layer = nn.TransformerEncoderLayer(WIDTH, 2, WIDTH, dropout=0.0, batch_first=True)
    layer.load_state_dict(router.fusion.state_dict())
    return layer


def heard(questions: int, valid: list[bool]) -> InstructionTokens:
    torch.manual_seed(2)
    return InstructionTokens(torch.randn(questions, len(valid), WIDTH), torch.tensor([valid] * questions))


def test_logits_are_the_voters_weighted_sum_averaged_over_tiles() -> None:
    router, instruction = make_router(), heard(2, [True] * 3)
    images = levels(3)  # two tiles of the first question's image, one of the second's
    by_hand = []
    for tile, question in [(0, 0), (1, 0), (2, 1)]:
        tokens = torch.cat([*[level[tile] for level in images], instruction.embeddings[question]])
        ballots = router.mlp(plain_layer(router)(tokens.unsqueeze(0)))[0]
        by_hand.append(sum(weight * ballot for weight, ballot in zip(router.voter, ballots, strict=True)))
    expected = torch.stack([(by_hand[0] + by_hand[1]) / 2, by_hand[2]])
    torch.testing.assert_close(router(images, instruction, [2, 1]), expected)


def test_an_empty_slot_changes_nothing_whatever_it_holds() -> None:
    router, instruction = make_router(), heard(1, [True, True, False])
    before = router(levels(2), instruction, [2])
    instruction.embeddings[0, 2] = 1000.0
    assert torch.equal(router(levels(2), instruction, [2]), before)


def test_fewer_slots_than_the_router_has_count_as_empty() -> None:
    router, full = make_router(), heard(1, [True, True, False])
    short = InstructionTokens(full.embeddings[:, :2], full.valid[:, :2])
    assert torch.equal(router(levels(2), short, [2]), router(levels(2), full, [2]))


def test_tokens_of_one_tile_attend_to_each_other_and_not_to_other_tiles() -> None:
    router, instruction = make_router(), heard(1, [True] * 3)
    tokens = torch.cat([*levels(2), instruction.embeddings.expand(2, -1, -1)], dim=1)
    seen = torch.ones(2, 10, dtype=torch.bool)
    before = router.votes(router.fuse(tokens, seen, [2]), seen)
    tokens[1, -1] += 1.0
    after = router.votes(router.fuse(tokens, seen, [2]), seen)
    assert torch.equal(after[0], before[0])
    fused_before = router.fusion(tokens)[1, 0]
    tokens[1, -1] += 1.0
    assert not torch.equal(router.fusion(tokens)[1, 0], fused_before)


def test_more_instruction_tokens_than_slots_are_refused_with_the_mend() -> None:
    with pytest.raises(UserError, match=r"k = 4 tokens, but the router was built for 3; .*instruction_tokens: 4"):
        make_router()(levels(1), heard(1, [True] * 4), [1])


def test_the_papers_router_adds_1_66_percent_to_llava_next_on_vicuna_7b() -> None:
    with torch.device("meta"):
        router = GranularityRouter(Granularities(), width=4096)
    vicuna, clip, connector = 6_738_415_616, 303_507_456, 1024 * 4096 + 4096 + 4096 * 4096 + 4096
    share = sum(parameter.numel() for parameter in router.parameters()) / (vicuna + clip + connector)
    assert round(100 * share, 2) == 1.66


@pytest.mark.parametrize("attention", ["tokens", "tiles"])
def test_pooled_queries_keys_and_values_are_those_of_pooled_tokens(attention: Attention) -> None:
    torch.manual_seed(0)
    granularities = Granularities((1, 2, 4, 8, 16))
    router = GranularityRouter(granularities, WIDTH, attention, instruction_tokens=3, heads=2, dropout=0.0)
    images, instruction = GranularityScaler(granularities)(torch.randn(5, 16, WIDTH)), heard(2, [True, True, False])
    read, pooled = (router(images, instruction, [3, 2], averaged) for averaged in (False, True))
    torch.testing.assert_close(pooled, read)
    parameters = list(router.parameters())
    gradients = [torch.autograd.grad(logits.square().sum(), parameters) for logits in (read, pooled)]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-5)


def test_across_tiles_it_is_torchs_layer_with_the_tiles_first() -> None:
    router = GranularityRouter(GRANULARITIES, WIDTH, "tiles", instruction_tokens=3, heads=2, dropout=0.0)
    tokens, layer = torch.randn(5, 10, WIDTH), nn.TransformerEncoderLayer(WIDTH, 2, WIDTH, dropout=0.0)
    layer.load_state_dict(router.fusion.state_dict())
    expected = torch.cat([layer(tokens[:3]), layer(tokens[3:])])
    torch.testing.assert_close(router.fuse(tokens, torch.ones(5, 10, dtype=torch.bool), [3, 2]), expected)


def test_recomputing_leaves_the_gradients_with_dropout_too() -> None:
    def gradients(recompute: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        router = GranularityRouter(
            GRANULARITIES, WIDTH, instruction_tokens=3, heads=2, dropout=0.3, recompute=recompute
        )
        router(levels(2), heard(1, [True] * 3), [2]).square().sum().backward()
        return [parameter.grad for parameter in router.parameters() if parameter.grad is not None]

    torch.testing.assert_close(gradients(True), gradients(False))
