"""What each family assumes for missing keys of config.json, against transformers' own classes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from family_table import SETTINGS
from transformers import AutoConfig, AutoModelForCausalLM

from edgewright.errors import Refused, UsageError
from edgewright.models import (
    FAMILIES,
    Architecture,
    AttentionSizes,
    architecture,
    expressible,
    families,
    family_lookup,
)

SIZES = {
    "hidden_size": 640,
    "num_hidden_layers": 14,
    "num_attention_heads": 32,
    "intermediate_size": 1024,
    "vocab_size": 1000,
    "max_position_embeddings": 8192,
}
# Google's files leave these out as well.
GEMMA = {k: v for k, v in SIZES.items() if k not in ("num_attention_heads", "vocab_size")}


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


ELSEWHERE = set(SETTINGS)  # which `test_every_family` compares with transformers
CASES = [case for kind in sorted(set(FAMILIES) - ELSEWHERE) for case in left_out(kind)]


@pytest.mark.parametrize("config", CASES, ids=lambda config: "-".join(map(str, config.values())))
def test_defaults_are_those_of_transformers(config: dict[str, Any]) -> None:
    true = AutoConfig.for_model(**config)
    model = architecture(config)
    sizes = model.summary()
    for name in (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
        "vocab_size",
    ):
        assert sizes[name] == getattr(true, name), name
    assert model.tied == true.tie_word_embeddings
    assert sizes["head_dim"] == (
        getattr(true, "head_dim", None) or true.hidden_size // true.num_attention_heads
    )
    scale = getattr(true, "query_pre_attn_scalar", sizes["head_dim"]) ** -0.5
    assert {layer.attention.query_scale for layer in model.layers} == {scale}
    assert {layer.mixer_norm.epsilon for layer in model.layers} == {true.rms_norm_eps}

    with torch.device("meta"):
        stock = AutoModelForCausalLM.from_config(true)
    assert model.parameters == stock.num_parameters()
    assert_experts(model, stock, true)

    window = getattr(true, "sliding_window", None) or 0
    types = (
        getattr(true, "layer_types", None)
        or ["sliding_attention" if window else "full_attention"] * true.num_hidden_layers
    )
    assert [layer.attention.window for layer in model.layers] == [
        window if t == "sliding_attention" else 0 for t in types
    ]


def assert_experts(model: Architecture, stock: Any, true: Any) -> None:
    """What an architecture says of experts, against the modules that transformers builds."""
    pools = {
        i: layer.mlp for i, layer in enumerate(stock.model.layers) if hasattr(layer.mlp, "experts")
    }
    assert model.expert_layers == tuple(pools)
    found = model.experts
    if found is None:
        return
    for pool in pools.values():
        assert tuple(pool.experts.down_proj.shape) == (found.count, true.hidden_size, found.size)
        assert (pool.gate.top_k, getattr(pool.gate, "norm_topk_prob", True)) == (
            found.per_token,
            found.renormalize,
        )
        shared = pool.shared_expert.up_proj if hasattr(pool, "shared_expert") else None
        assert (found.shared.up.shape if found.shared else None) == (
            tuple(shared.weight.shape) if shared else None
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
    model = architecture(config)
    assert model.parameters / 1e9 == pytest.approx(every, abs=0.05)
    assert model.active_parameters() / 1e9 == pytest.approx(active, abs=0.1)
    assert model.active_parameters() < model.active_parameters(4) < model.parameters


def test_both_spellings_of_the_number_of_experts() -> None:
    """transformers 5 saves Qwen3-MoE's as `num_local_experts`; 4.x knows `num_experts` only."""
    old = A3B
    new = {**{k: v for k, v in A3B.items() if k != "num_experts"}, "num_local_experts": 16}
    for config, count in ((old, 128), (new, 16)):
        model = architecture(config)
        cut = {"heads": 32, "kv_heads": 4, "ffn": 6144, "layers": range(48)}
        small = model.resized(**cut).config
        assert (small["num_experts"], small["num_local_experts"]) == (count, count)
        assert AutoConfig.for_model(**small).num_experts == count
        fewer = model.resized(**cut, experts=8).config
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
        architecture(A3B | change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_attention_heads": None}, "missing or not a number"),
        ({"hidden_size": "wide"}, "missing or not a number"),
        ({"vocab_size": 0, "head_dim": -1}, "head_dim, vocab_size must be at least 1"),
        ({"num_key_value_heads": 5}, "32 query heads do not divide into 5 key/value heads"),
    ],
)
def test_impossible_sizes_are_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        architecture({"model_type": "llama", **SIZES, **change}, "here/config.json")


def test_unknown_architectures_are_refused() -> None:
    with pytest.raises(UsageError, match="no `model_type`"):
        architecture(SIZES)
    with pytest.raises(Refused, match=r"`mamba` is not supported$") as caught:
        architecture({"model_type": "mamba", **SIZES})
    assert caught.value.hint == f"supported: {', '.join(sorted(FAMILIES))}"
    assert {"gemma3_text", "llama", "mistral"} <= set(FAMILIES)
    with pytest.raises(Refused, match="`auto_map`"):
        architecture({"model_type": "mamba", "auto_map": {"AutoModel": "x.Y"}, **SIZES})


def test_a_family_is_one_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A new file in the folder of families is enough: nothing else names it."""
    files = {file.stem for file in Path(families.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == set(FAMILIES)
    (tmp_path / "newcomer.py").write_text(
        "from edgewright.models.family import Family\n"
        "FAMILY = Family('newcomer', qk_norm=True, defaults={'num_key_value_heads': 4})\n"
    )
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    monkeypatch.setattr(family_lookup, "FAMILIES", families.discover())
    del sys.modules["edgewright.models.families.newcomer"]
    model = architecture({"model_type": "newcomer", **SIZES})
    assert model.model_type == "newcomer"
    assert model.attention_sizes == AttentionSizes(32, 4, 20)
    assert model.layers[0].attention.q_norm
    small = model.resized(heads=16, kv_heads=2, ffn=512, layers=[0, 2])
    assert (small.model_type, len(small.layers)) == ("newcomer", 2)
    assert expressible(model, "onnx") == []
    assert expressible(model, "gguf")
