import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from lit_avg.llava_next.flops import llm_forward_flops


@pytest.mark.parametrize("key_value_heads", [4, 2])
@pytest.mark.parametrize("length", [1, 17])
def test_the_count_is_that_of_torchs_counter(length: int, key_value_heads: int) -> None:
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=key_value_heads,
        vocab_size=50,
        attn_implementation="eager",  # its two matrix products are counted; fused CPU kernels are not
    )
    llm = LlamaForCausalLM(config).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        llm(torch.zeros(1, length, dtype=torch.long), logits_to_keep=1)
    assert llm_forward_flops(config, torch.tensor([length])) == counter.get_total_flops()


def test_sequences_add_up() -> None:
    config = LlamaConfig(hidden_size=32, num_attention_heads=4, vocab_size=50)
    one_by_one = [llm_forward_flops(config, torch.tensor([length])) for length in (5, 9)]
    assert llm_forward_flops(config, torch.tensor([5, 9])) == sum(one_by_one)
