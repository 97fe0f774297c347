"""Tiny models of the families beside those of conftest, and the published models they are made for.

A family's tests take their settings from here. To test a new one, add its settings, and a published
config to `models/published_configs.yaml`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

__all__ = ["PUBLISHED", "SETTINGS", "WHOLE"]

WHOLE: dict[str, Any] = {"hidden_size": 256, "num_attention_heads": 4, "head_dim": 64}
"""For families whose width must be that of all heads."""
SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]
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


def _published() -> dict[str, dict[str, Any]]:
    """The first published config.json of each family, wrapped or not."""
    file = Path(__file__).parent / "models" / "published_configs.yaml"
    found: dict[str, dict[str, Any]] = {}
    for entry in yaml.safe_load(file.read_text()).values():
        config = entry["config"].get("text_config", entry["config"])
        found.setdefault(config["model_type"], config)
    # Ministral's own type is that of new files; the published one says `mistral`.
    layers = ["full_attention", *["sliding_attention"] * 3] * 9
    ministral = {"model_type": "ministral", "sliding_window": 32768, "layer_types": layers}
    found["ministral"] = yaml.safe_load(file.read_text())["Ministral-8B-2410"]["config"] | ministral
    return {family: found[family] for family in SETTINGS}


PUBLISHED = _published()
"""A published config.json of each family."""
