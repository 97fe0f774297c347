"""What each family takes for keys that config.json leaves out, against transformers' own configuration classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from edgewright.errors import Refused, UsageError
from edgewright.models import FAMILIES, Experts, family_of, require_dense

SIZES = {
    "hidden_size": 640,
    "num_hidden_layers": 14,
    "num_attention_heads": 32,
    "intermediate_size": 1024,
    "vocab_size": 1000,
    "max_position_embeddings": 8192,
}
GEMMA = {
    k: v for k, v in SIZES.items() if k not in ("num_attention_heads", "vocab_size")
}  # google's files leave these out as well


def left_out(kind: str) -> list[dict[str, Any]]:
    sizes = {"model_type": kind, **(GEMMA if kind == "gemma3_text" else SIZES)}
    cases = [
        sizes,
        {**sizes, "tie_word_embeddings": False},
        {**sizes, "tie_word_embeddings": True},
        {**sizes, "head_dim": 64},
    ]
    if kind in ("qwen2", "qwen3", "qwen2_moe", "qwen3_moe"):
        sliding = {**sizes, "use_sliding_window": True}
        cases += [{**sliding, "num_hidden_layers": 30}, {**sliding, "max_window_layers": 3}]
    if kind in ("mistral", "mixtral"):
        cases += [{**sizes, "sliding_window": None}, {**sizes, "sliding_window": 256}]
    if kind.endswith("_moe"):
        cases += [
            {
                **sizes,
                "num_experts": 16,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 48,
                "norm_topk_prob": True,
            }
        ]
        cases += [
            {**sizes, "mlp_only_layers": [3], "decoder_sparse_step": 2},
            {**sizes, "mlp_only_layers": list(range(14))},
        ]
    if kind == "mixtral":
        cases += [{**sizes, "num_local_experts": 4, "num_experts_per_tok": 3}]
    if kind == "gemma3_text":
        cases += [
            {**sizes, "sliding_window_pattern": 4},
            {**sizes, "sliding_window": 512, "head_dim": 128},
        ]
    return cases


CASES = [case for kind in sorted(FAMILIES) for case in left_out(kind)]


@pytest.mark.parametrize("config", CASES, ids=lambda config: "-".join(map(str, config.values())))
def test_defaults_are_those_of_transformers(config: dict[str, Any]) -> None:
    true = AutoConfig.for_model(**config)
    family = family_of(config)
    shape = family.shape(config)
    for name in (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
        "vocab_size",
    ):
        assert getattr(shape, name) == getattr(true, name), name
    assert shape.tied == true.tie_word_embeddings
    assert shape.head_dim == (
        getattr(true, "head_dim", None) or true.hidden_size // true.num_attention_heads
    )
    assert (
        family.query_scale(config) == getattr(true, "query_pre_attn_scalar", shape.head_dim) ** -0.5
    )

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(true)
    assert family.parameters(config) == model.num_parameters()
    assert_experts(shape.experts, model, true)

    window = getattr(true, "sliding_window", None) or 0
    types = (
        getattr(true, "layer_types", None)
        or ["sliding_attention" if window else "full_attention"] * true.num_hidden_layers
    )
    assert [kind.window for kind in family.layer_kinds(config)] == [
        window if t == "sliding_attention" else 0 for t in types
    ]


def assert_experts(found: Experts | None, model: Any, true: Any) -> None:
    """What a shape says of experts, against the modules that transformers builds."""
    pools = {
        i: layer.mlp for i, layer in enumerate(model.model.layers) if hasattr(layer.mlp, "experts")
    }
    if found is None:
        assert not pools
        return
    assert found.layers == tuple(pools)
    for pool in pools.values():
        assert tuple(pool.experts.down_proj.shape) == (found.count, true.hidden_size, found.size)
        assert (pool.gate.top_k, getattr(pool.gate, "norm_topk_prob", True)) == (
            found.per_token,
            found.renormalised,
        )
        assert found.shared == (
            pool.shared_expert.up_proj.out_features if hasattr(pool, "shared_expert") else 0
        )


A3B = {  # of Qwen3-30B-A3B's card: 30.5 billion parameters, 3.3 of them active
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "vocab_size": 151936,
}
MIXTRAL = {  # of its card: 46.7 billion, 12.9 of them active
    "model_type": "mixtral",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 32000,
}


@pytest.mark.parametrize(
    ("config", "every", "active"), [(A3B, 30.5, 3.3), (MIXTRAL, 46.7, 12.9)], ids=["A3B", "mixtral"]
)
def test_published_mixtures_have_the_parameters_of_their_cards(
    config: dict[str, Any], every: float, active: float
) -> None:
    family = family_of(config)
    idle = {
        name: family.linear_counts(config)[name] - used
        for name, used in family.linear_counts(config, 1).items()
    }
    shapes = family.linear_shapes(config)
    total = family.parameters(config)
    assert total / 1e9 == pytest.approx(every, abs=0.05)
    assert (
        total - sum(idle[name] * n * k for name, (n, k) in shapes.items())
    ) / 1e9 == pytest.approx(active, abs=0.1)


def test_both_spellings_of_the_number_of_experts() -> None:
    """transformers 5 saves Qwen3-MoE's as `num_local_experts`, the published files say `num_experts`; readers of 4.x know that only."""
    old, new = (
        A3B,
        {**{k: v for k, v in A3B.items() if k != "num_experts"}, "num_local_experts": 16},
    )
    for config, count in ((old, 128), (new, 16)):
        family = family_of(config)
        small = family.resized(config, heads=32, kv_heads=4, ffn=6144, layers=range(48))
        assert (small["num_experts"], small["num_local_experts"]) == (count, count)
        assert AutoConfig.for_model(**small).num_experts == count
        fewer = family.with_experts(small, 8)
        assert (fewer["num_experts"], fewer["num_local_experts"]) == (8, 8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_experts_per_tok": 200}, "a token goes to 200 experts, and there are 128"),
        ({"moe_intermediate_size": 0}, "size of an expert"),
    ],
)
def test_impossible_mixtures_are_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        family_of(A3B | change)


def test_what_is_for_dense_models_only_says_so() -> None:
    require_dense({**A3B, "model_type": "qwen3"}, "quantized")
    require_dense({**A3B, "mlp_only_layers": list(range(48))}, "quantized")
    with pytest.raises(Refused, match=r"mixture of experts .* cannot be quantized yet") as caught:
        require_dense(A3B, "quantized")
    assert "--experts" in caught.value.hint
