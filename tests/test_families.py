"""What each family takes for keys that config.json leaves out, against transformers' own configuration classes."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig

from edgewright.models import FAMILIES, family_of

SIZES = {
    "hidden_size": 640, "num_hidden_layers": 14, "num_attention_heads": 32, "intermediate_size": 1024, "vocab_size": 1000,
    "max_position_embeddings": 8192,
}  # fmt: skip
GEMMA = {k: v for k, v in SIZES.items() if k not in ("num_attention_heads", "vocab_size")}  # google's files leave these out as well


def left_out(kind: str) -> list[dict[str, Any]]:
    sizes = {"model_type": kind, **(GEMMA if kind == "gemma3_text" else SIZES)}
    cases = [sizes, {**sizes, "tie_word_embeddings": False}, {**sizes, "tie_word_embeddings": True}, {**sizes, "head_dim": 64}]
    if kind in ("qwen2", "qwen3"):
        sliding = {**sizes, "use_sliding_window": True}
        cases += [{**sliding, "num_hidden_layers": 30}, {**sliding, "max_window_layers": 3}]
    if kind == "mistral":
        cases += [{**sizes, "sliding_window": None}, {**sizes, "sliding_window": 256}]
    if kind == "gemma3_text":
        cases += [{**sizes, "sliding_window_pattern": 4}, {**sizes, "sliding_window": 512, "head_dim": 128}]
    return cases


CASES = [case for kind in sorted(FAMILIES) for case in left_out(kind)]


@pytest.mark.parametrize("config", CASES, ids=lambda config: "-".join(map(str, config.values())))
def test_defaults_are_those_of_transformers(config: dict[str, Any]) -> None:
    true = AutoConfig.for_model(**config)
    family = family_of(config)
    shape = family.shape(config)
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size"):
        assert getattr(shape, name) == getattr(true, name), name
    assert shape.tied == true.tie_word_embeddings
    assert shape.head_dim == (getattr(true, "head_dim", None) or true.hidden_size // true.num_attention_heads)
    assert family.query_scale(config) == getattr(true, "query_pre_attn_scalar", shape.head_dim) ** -0.5

    window = getattr(true, "sliding_window", None) or 0
    types = getattr(true, "layer_types", None) or ["sliding_attention" if window else "full_attention"] * true.num_hidden_layers
    assert [kind.window for kind in family.layer_kinds(config)] == [window if t == "sliding_attention" else 0 for t in types]
