"""Tiny models of the families beside those of conftest, and the published models they are made for.

A family's tests take their settings from here. To test a new one, add an entry to each table.
"""

from __future__ import annotations

from typing import Any

__all__ = ["PUBLISHED", "SETTINGS", "WHOLE"]

WHOLE: dict[str, Any] = {"hidden_size": 256, "num_attention_heads": 4, "head_dim": 64}
"""For families whose width must be that of all heads."""
SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]
FACTORS = ("short_factor", "long_factor")
CUSTOM_ROPE = {"rope_type": "default", "rope_theta": 500000.0}

SETTINGS: dict[str, dict[str, Any]] = {
    "arcee": {"attention_bias": True, "mlp_bias": True},
    "cohere2": {
        **WHOLE,
        "sliding_window": 16,
        "layer_types": SLIDING,
        "logit_scale": 0.25,
        "tie_word_embeddings": True,
        "layer_norm_eps": 1e-4,
    },
    "cwm": {
        "sliding_window": 16,
        "bos_token_id": 1,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 20000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "ernie4_5": {"use_bias": True, "tie_word_embeddings": True},
    "exaone4": {"sliding_window": 16, "layer_types": SLIDING},
    "gemma": {"tie_word_embeddings": True, "hidden_act": "gelu"},
    "gemma2": {
        "tie_word_embeddings": True,
        "sliding_window": 16,
        "query_pre_attn_scalar": 48,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "glm": {},
    "glm4": {},
    "granite": {
        "attention_bias": True,
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.25,
        "residual_multiplier": 0.5,
        "logits_scaling": 2.0,
        "tie_word_embeddings": True,
    },
    "helium": {**WHOLE, "attention_bias": True},
    "hunyuan_v1_dense": {
        "rope_parameters": {
            "rope_type": "dynamic",
            "alpha": 1000.0,
            "factor": 1.0,
            "rope_theta": 10000.0,
        }
    },
    "internlm3": {"attention_bias": True, "mlp_bias": True},
    "ministral": {"sliding_window": 16, "layer_types": SLIDING},
    "ministral3": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 20000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 8,
            "llama_4_scaling_beta": 0.1,
        },
    },
    "nemotron": {"rope_parameters": {**CUSTOM_ROPE, "partial_rotary_factor": 0.5}},
    "olmo2": {"attention_bias": True},
    "olmo3": {
        "sliding_window": 16,
        "layer_types": SLIDING,
        "rope_parameters": {
            "sliding_attention": CUSTOM_ROPE,
            "full_attention": {
                "rope_type": "yarn",
                "rope_theta": 500000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    },
    "phi3": {"rope_parameters": {**CUSTOM_ROPE, "partial_rotary_factor": 0.75}},
    "seed_oss": {"attention_bias": True},
    "smollm3": {
        "use_sliding_window": True,
        "sliding_window": 16,
        "no_rope_layers": [1, 0, 1],
        "tie_word_embeddings": True,
    },
    "stablelm": {
        **WHOLE,
        "use_qkv_bias": True,
        "rope_parameters": {**CUSTOM_ROPE, "partial_rotary_factor": 0.25},
    },
    "starcoder2": {"sliding_window": 16, "tie_word_embeddings": True},
}
"""Windows of 16 are shorter than the rows of the tests, so that a wrong mask changes results."""


def _sizes(*sizes: int, **more: Any) -> dict[str, Any]:
    """A config.json: width, layers, heads, key/value heads, head_dim (0: none), FFN, vocabulary."""
    names = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "intermediate_size",
        "vocab_size",
    )
    found = dict(zip(names, sizes, strict=True))
    return {name: size for name, size in found.items() if size} | more


PUBLISHED: dict[str, tuple[float, dict[str, Any]]] = {
    "arcee": (4.62, _sizes(2560, 36, 20, 4, 128, 18432, 128004, tie_word_embeddings=False)),
    "cohere2": (8.03, _sizes(4096, 32, 32, 8, 0, 14336, 256000, sliding_window_pattern=4)),
    "cwm": (32.6, _sizes(6144, 64, 48, 8, 128, 21504, 128256)),
    "ernie4_5": (0.361, _sizes(1024, 18, 16, 2, 128, 3072, 103424, tie_word_embeddings=True)),
    "exaone4": (
        1.28,
        _sizes(2048, 30, 32, 8, 64, 4096, 102400, tie_word_embeddings=True, sliding_window=None)
        | {"sliding_window_pattern": None, "layer_types": ["full_attention"] * 30},
    ),
    "gemma": (2.51, _sizes(2048, 18, 8, 1, 256, 16384, 256000, hidden_act="gelu")),
    "gemma2": (2.61, _sizes(2304, 26, 8, 4, 256, 9216, 256000)),
    "glm": (
        9.4,
        _sizes(4096, 40, 32, 2, 128, 13696, 151552, partial_rotary_factor=0.5)
        | {"attention_bias": True, "rope_theta": 5e6},
    ),
    "glm4": (
        9.4,
        _sizes(4096, 40, 32, 2, 128, 13696, 151552, partial_rotary_factor=0.5)
        | {"attention_bias": True},
    ),
    "granite": (
        2.53,
        _sizes(2048, 40, 32, 8, 0, 8192, 49155, tie_word_embeddings=True)
        | {"embedding_multiplier": 12.0, "attention_multiplier": 0.015625}
        | {"residual_multiplier": 0.22, "logits_scaling": 8.0, "rope_theta": 1e7},
    ),
    "helium": (2.17, _sizes(2560, 24, 20, 20, 128, 7040, 48000)),
    "hunyuan_v1_dense": (
        1.79,
        _sizes(2048, 32, 16, 4, 128, 6144, 120818, tie_word_embeddings=True)
        | {"rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}},
    ),
    "internlm3": (8.8, _sizes(4096, 48, 32, 2, 128, 10240, 128512, qkv_bias=False, bias=False)),
    "ministral": (
        8.02,
        _sizes(4096, 36, 32, 8, 128, 12288, 131072, sliding_window=32768)
        | {"layer_types": ["full_attention", *["sliding_attention"] * 3] * 9},
    ),
    "ministral3": (3.43, _sizes(3072, 26, 32, 8, 128, 9216, 131072, tie_word_embeddings=True)),
    "nemotron": (4.19, _sizes(3072, 32, 24, 8, 128, 9216, 256000, partial_rotary_factor=0.5)),
    "olmo2": (1.48, _sizes(2048, 16, 16, 16, 0, 8192, 100352)),
    "olmo3": (7.3, _sizes(4096, 32, 32, 32, 0, 11008, 100278, sliding_window=4096)),
    "phi3": (
        3.84,
        _sizes(3072, 32, 24, 8, 0, 8192, 200064, tie_word_embeddings=True)
        | {"partial_rotary_factor": 0.75, "rope_theta": 10000.0}
        | {"max_position_embeddings": 131072, "original_max_position_embeddings": 4096}
        | {"rope_scaling": {"type": "longrope"} | dict.fromkeys(FACTORS, [1.0] * 48)},
    ),
    "seed_oss": (36.2, _sizes(5120, 64, 80, 8, 128, 27648, 155136)),
    "smollm3": (3.08, _sizes(2048, 36, 16, 4, 0, 11008, 128256)),
    "stablelm": (1.64, _sizes(2048, 24, 32, 32, 0, 5632, 100352, use_qkv_bias=True)),
    "starcoder2": (3.03, _sizes(3072, 30, 24, 2, 0, 12288, 49152, sliding_window=4096)),
}
"""Billions of parameters that a model's card or files state, and its config.json."""
