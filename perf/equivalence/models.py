"""Settings of the models that the jobs read: small ones by family, and published sizes."""

from __future__ import annotations

from typing import Any

BASE: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
WINDOWED = {"use_sliding_window": True, "sliding_window": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 16},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {**WINDOWED, "max_window_layers": 1},
    "gemma3_text": {
        "tie_word_embeddings": True,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "query_pre_attn_scalar": 48,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 500000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0},
        },
    },
    "mixtral": {
        "sliding_window": 16,
        "intermediate_size": 64,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    "qwen2_moe": {
        **WINDOWED,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "shared_expert_intermediate_size": 96,
        "mlp_only_layers": [1],
        "max_window_layers": 2,
    },
    "qwen3_moe": {
        **WINDOWED,
        "num_experts": 12,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 32,
        "norm_topk_prob": True,
        "decoder_sparse_step": 2,
        "num_hidden_layers": 4,
    },
}
MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe")
FURTHER: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "other": ("llama", {}, 1, "float32"),
    "qwen3-plain": ("qwen3", {"use_sliding_window": False, "sliding_window": None}, 6, "float32"),
    "heads": ("llama", {"num_key_value_heads": 8}, 2, "float32"),
    "bfloat16": ("qwen2", {"tie_word_embeddings": True}, 3, "bfloat16"),
    "damaged": ("llama", {"num_hidden_layers": 1}, 4, "float32"),
    "nan": ("llama", {"num_hidden_layers": 1}, 5, "float32"),
}
"""Further models by name: family, settings, seed and dtype."""
PUBLISHED: dict[str, dict[str, Any]] = {
    "qwen2.5-3b": {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "max_position_embeddings": 32768,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "rms_norm_eps": 1e-06,
        "hidden_act": "silu",
    },
    "llama-3.1-8b": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "rms_norm_eps": 1e-05,
        "hidden_act": "silu",
    },
}
"""Configs of published models. A plan reads no weights, so the config is enough."""
