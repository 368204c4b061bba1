"""Tiny LLMs of every family that may be the LLM of a LLaVA-NeXT here, their configs as the real ones are laid out."""

from typing import Any

SIZE: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 50,
    "initializer_range": 0.2,  # at the usual 0.02 an LLM hardly listens to its input, and all would look equal
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 49,
    "pad_token_id": 0,
}

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

WINDOW = 8
"""Of those that have a sliding window: shorter than any sequence with an image."""

LLMS: dict[str, dict[str, Any]] = {
    "llama2": {"model_type": "llama", "num_key_value_heads": 2, "pretraining_tp": 1, "pad_token_id": None},
    "llama3": {"model_type": "llama", "rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE, "pad_token_id": None},
    "llama3.2": {"model_type": "llama", "rope_scaling": LLAMA3_ROPE, "head_dim": 16, "tie_word_embeddings": True},
    "vicuna": {"model_type": "llama", "num_key_value_heads": 2, "bos_token_id": 1, "pad_token_id": 0},
    "mistral": {"model_type": "mistral", "sliding_window": WINDOW, "rope_theta": 10000.0},
    "mistral v0.3": {"model_type": "mistral", "sliding_window": None, "head_dim": 16, "rope_theta": 1000000.0},
    "qwen2": {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": WINDOW, "max_window_layers": 3},
    "qwen2 window": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "max_window_layers": 1,
    },
    "qwen2.5": {"model_type": "qwen2", "tie_word_embeddings": True, "rope_theta": 1000000.0, "pad_token_id": 49},
    "qwen3": {"model_type": "qwen3", "head_dim": 16, "attention_bias": False, "sliding_window": None},
    "phi3": {"model_type": "phi3", "sliding_window": WINDOW, "rope_scaling": None, "pad_token_id": 49},
    "gemma2": {
        "model_type": "gemma2",
        "head_dim": 16,
        "sliding_window": WINDOW,
        "query_pre_attn_scalar": 24,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 3.0,
        "hidden_activation": "gelu_pytorch_tanh",
    },
    "gemma3": {
        "model_type": "gemma3_text",
        "head_dim": 16,
        "sliding_window": WINDOW,
        "sliding_window_pattern": 2,
        "query_pre_attn_scalar": 24,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
    },
    "olmo2": {"model_type": "olmo2", "rope_theta": 500000.0, "pad_token_id": 49},
    "stablelm": {"model_type": "stablelm", "partial_rotary_factor": 0.5, "use_qkv_bias": True, "qk_layernorm": True},
    "stablelm parallel": {"model_type": "stablelm", "partial_rotary_factor": 0.5, "use_parallel_residual": True},
    "smollm2": {"model_type": "llama", "tie_word_embeddings": True, "is_llama_config": True, "pad_token_id": 2},
    "smollm3": {"model_type": "smollm3", "no_rope_layer_interval": 2, "tie_word_embeddings": True},
}
"""By what people call them."""


def llm(family: str, **changes: Any) -> dict[str, Any]:
    """The config of a family's tiny LLM."""
    return SIZE | LLMS[family] | changes
